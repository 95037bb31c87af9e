"""A real PostgreSQL, a place of its own in it for each test, and stores that are closed behind the test."""

import gc
import os
import urllib.parse
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from grpc_idempotency.stores._postgres import registry
from grpc_idempotency.stores.postgres import AsyncPostgresStore, PostgresStore

from ..harness.postgres import shared_server

CLOCK = "(SELECT at FROM clock)"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the session's PostgreSQL."""
    folder = tmp_path_factory.getbasetemp()
    with shared_server(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) as url:
        yield url


class Place:
    """A schema for the store's tables and others, with a clock that stands still until it is moved."""

    placeholder = "%s"

    def __init__(self, server: str) -> None:
        self.schema = f"test_{os.urandom(8).hex()}"
        options = urllib.parse.quote(f"-c search_path={self.schema}")
        self.url = f"{server}{'&' if '?' in server else '?'}options={options}"
        self.db = psycopg.connect(self.url, autocommit=True)
        self.db.execute(f"CREATE SCHEMA {self.schema}".encode())
        self.db.execute("CREATE TABLE clock (at timestamptz)")
        self.db.execute("INSERT INTO clock VALUES ('2026-11-26T12:00:00Z')")

    def elapse(self, duration: timedelta) -> None:
        self.db.execute("UPDATE clock SET at = at + %s", (duration,))

    def drop(self) -> None:
        self.db.execute(f"DROP SCHEMA {self.schema} CASCADE".encode())
        self.db.close()


@pytest.fixture
def place(server: str) -> Iterator[Place]:
    place = Place(server)
    yield place
    place.drop()


Make = Callable[..., AsyncPostgresStore]
MakeBlocking = Callable[..., PostgresStore]


@pytest.fixture
async def make(place: Place) -> AsyncIterator[Make]:
    """Makes stores in the test's place, and closes them at the end. Time stands still, unless ``_clock`` is given."""
    made: list[AsyncPostgresStore] = []

    def make_store(url: str = place.url, **options: Any) -> AsyncPostgresStore:
        made.append(AsyncPostgresStore(url, **{"schema": place.schema, "_clock": CLOCK} | options))
        return made[-1]

    yield make_store
    for store in made:
        await store.close()


@pytest.fixture
def make_blocking(place: Place) -> Iterator[MakeBlocking]:
    """The same for threads."""
    made: list[PostgresStore] = []

    def make_store(url: str = place.url, **options: Any) -> PostgresStore:
        made.append(PostgresStore(url, **{"schema": place.schema, "_clock": CLOCK} | options))
        return made[-1]

    yield make_store
    for store in made:
        store.close()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Every test ends with no engine open."""
    yield
    if registry.engines.users:
        gc.collect()  # a store that is garbage is released by the collector
    assert not registry.engines.users
    for engine in registry.engines.leaving:
        assert engine.closed.wait(10)
