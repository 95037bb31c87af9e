"""The fixtures of servers; recovery looks many times a second."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from grpc_idempotency import SQLiteStore

from ..harness.fixtures import discretion, pytest_generate_tests
from ..harness.servers import Servers
from ..steps.operations import Log
from .recording import Recorder

__all__ = ["discretion", "pytest_generate_tests", "serve"]


@pytest.fixture
async def serve(kind: str, tmp_path: Path) -> AsyncIterator[Servers]:
    """Starts servers of the test's kind."""
    async with AsyncExitStack() as stack:
        yield Servers(kind, tmp_path, stack, flaky=True, workers=32, max_waiters=16)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def heard() -> Recorder:
    """What an observer hears."""
    return Recorder()


@pytest.fixture
def left_behind(serve: Servers) -> "SQLiteStore":
    """The store of servers that are gone."""
    return SQLiteStore(serve.path)
