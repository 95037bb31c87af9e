"""Hosts: server processes that have nothing in common but an engine."""

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ..harness.engines import postgres_server, postgresql, redis_url, valkey_server
from ..harness.processes import Process
from ..harness.relay import Relay, relayed
from ..harness.servers import Servers
from ..redis.conftest import cluster

__all__ = ["cluster", "postgres_server", "postgresql", "redis_url", "valkey_server"]

ONE_SERVER = ["postgresql", "redis_url"]


class Host(Process):
    """A server process, with a file of its effects."""

    def __init__(self, url: str, effects: Path) -> None:
        super().__init__(url, str(effects), program="host")
        self._effects = effects

    @property
    def effects(self) -> list[str]:
        """The effects of its handlers."""
        return self._effects.read_text().splitlines()


@pytest.fixture(params=[*ONE_SERVER, "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of a new store on each engine."""
    found = request.getfixturevalue(request.param)
    return f"{found[0].url}?prefix=test-{uuid.uuid4().hex}" if request.param == "cluster" else str(found)


@pytest.fixture
def relay(url: str) -> Iterator[Relay]:
    """A relay to the engine."""
    to = urlsplit(url)
    assert to.hostname is not None
    assert to.port is not None
    with relayed((to.hostname, to.port)) as relay:
        yield relay


@pytest.fixture
def relayed_url(url: str, relay: Relay) -> str:
    """The URL of the store through the relay."""
    to = urlsplit(url)
    user, at, _ = to.netloc.rpartition("@")
    return to._replace(netloc=f"{user}{at}127.0.0.1:{relay.port}").geturl()


Start = Callable[[str], Host]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a host on the store with this URL."""
    hosts: list[Host] = []

    def started(url: str) -> Host:
        hosts.append(Host(url, tmp_path / f"host{len(hosts)}.txt"))
        return hosts[-1]

    yield started
    for host in hosts:
        host.discard()


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Servers]:
    """Starts servers in this process, and makes clients."""
    async with AsyncExitStack() as stack:
        yield Servers("async", tmp_path, stack)
