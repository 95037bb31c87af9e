"""Servers that all tests of a process share, and stores on keys of their own, closed with nothing left running."""

import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

import redis
from grpc_idempotency.stores.redis import AsyncRedisStore, RedisStore

from ..harness import valkey


@dataclass
class HandClock:
    """A server's clock that stands still until it is moved."""

    ms: int = 1_800_000_000_000

    def __call__(self) -> int:
        return self.ms

    def elapse(self, duration: timedelta) -> None:
        self.ms += duration // timedelta(milliseconds=1)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of one server."""
    if valkey.GIVEN:
        yield valkey.GIVEN
        return
    with valkey.started() as one:
        yield one.url


@pytest.fixture(scope="session")
def cluster() -> Iterator[Sequence[valkey.Valkey]]:
    """Three nodes of a cluster."""
    with valkey.cluster() as nodes:
        yield nodes


@pytest.fixture
def prefix() -> str:
    """The beginning of the names of the test's own keys."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Every test ends with no thread of its stores running, once they are closed."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("grpc-idempotency"):
            thread.join(5)
            assert not thread.is_alive()


Make = Callable[..., AsyncRedisStore]


@pytest.fixture
async def make(prefix: str, server: str, nothing_left: None) -> AsyncIterator[Make]:
    """Makes stores on the test's keys, and closes them at the end."""
    made: list[AsyncRedisStore] = []

    def make_store(url: str = server, **options: Any) -> AsyncRedisStore:
        made.append(AsyncRedisStore(url, **{"prefix": prefix, **options}))
        return made[-1]

    yield make_store
    for store in made:
        await store.close()


MakeBlocking = Callable[..., RedisStore]


@pytest.fixture
def make_blocking(prefix: str, server: str, nothing_left: None) -> Iterator[MakeBlocking]:
    """The same for threads."""
    made: list[RedisStore] = []

    def make_store(url: str = server, **options: Any) -> RedisStore:
        made.append(RedisStore(url, **{"prefix": prefix, **options}))
        return made[-1]

    yield make_store
    for store in made:
        store.close()


@pytest.fixture
def client(server: str) -> Iterator[Any]:
    """A client of the one server."""
    with closing(redis.Redis.from_url(server)) as one:
        yield one
