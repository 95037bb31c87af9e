"""Real engines for suites that use them by their URLs: a place of its own in each for every test."""

import os
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest

from . import valkey
from .postgres import shared_server


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the session's PostgreSQL."""
    folder = tmp_path_factory.getbasetemp()
    with shared_server(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) as url:
        yield url


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[str]:
    """The URL of a Valkey server."""
    if valkey.GIVEN:
        yield valkey.GIVEN
        return
    [port] = valkey.free_ports(1)
    with valkey.started(port=port) as server:
        yield server.url


@pytest.fixture
def postgresql(postgres_server: str) -> Iterator[str]:
    """The URL of a new database."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as db:
        db.execute(f"CREATE DATABASE {name}".encode())
        yield urlsplit(postgres_server)._replace(path=f"/{name}").geturl()
        db.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def redis_url(valkey_server: str) -> str:
    """The URL of a store with a prefix of its own."""
    return f"{valkey_server}?prefix=test-{uuid.uuid4().hex}"
