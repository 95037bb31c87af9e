"""The fixtures of servers, whose methods are repeatable unless a test says otherwise."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from grpc_idempotency import SQLiteStore

from ..harness.fixtures import discretion, promptly, pytest_generate_tests
from ..harness.servers import Servers
from .operations import REPEATABLE, Log

__all__ = ["discretion", "left_behind", "log", "promptly", "pytest_generate_tests", "serve"]


@pytest.fixture
async def serve(kind: str, tmp_path: Path) -> AsyncIterator[Servers]:
    """Starts servers of the test's kind."""
    async with AsyncExitStack() as stack:
        yield Servers(kind, tmp_path, stack, policy=REPEATABLE, workers=16)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def left_behind(serve: Servers) -> Iterator[SQLiteStore]:
    """The store of servers that are gone."""
    store = SQLiteStore(serve.path)
    yield store
    store.close()
