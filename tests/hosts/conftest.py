"""Hosts: server processes that have nothing in common but an engine."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import psycopg
import pytest

from ..harness.processes import Process
from ..harness.servers import Servers
from ..postgres.conftest import server as postgresql
from ..redis.conftest import cluster
from ..redis.conftest import server as valkey

__all__ = ["cluster", "postgresql", "valkey"]


class Host(Process):
    """A server process, with a file of its effects."""

    def __init__(self, url: str, namespace: str, effects: Path) -> None:
        super().__init__(url, namespace, str(effects), program="host")
        self._effects = effects

    @property
    def effects(self) -> list[str]:
        """The effects of its handlers."""
        return self._effects.read_text().splitlines()


@pytest.fixture(params=["postgresql", "valkey", "cluster"])
def engine(request: pytest.FixtureRequest) -> str:
    """The URL of an engine."""
    found = request.getfixturevalue(request.param)
    return str(found[0].url if request.param == "cluster" else found)


@pytest.fixture
def namespace(engine: str) -> Iterator[str]:
    """The test's own place in the engine."""
    name = f"test_{os.urandom(8).hex()}"
    yield name
    if engine.startswith("postgresql:"):
        with psycopg.connect(engine, autocommit=True) as db:
            db.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE".encode())


Start = Callable[[], Host]


@pytest.fixture
def start(engine: str, namespace: str, tmp_path: Path) -> Iterator[Start]:
    """Starts a host."""
    hosts: list[Host] = []

    def started() -> Host:
        hosts.append(Host(engine, namespace, tmp_path / f"host{len(hosts)}.txt"))
        return hosts[-1]

    yield started
    for host in hosts:
        host.discard()


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Servers]:
    """Makes clients."""
    async with AsyncExitStack() as stack:
        yield Servers("async", tmp_path, stack)
