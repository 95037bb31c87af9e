"""The fixtures of servers; recovery looks many times a second."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from grpc_idempotency import Policy, SQLiteStore

from ..harness.fixtures import discretion, pytest_generate_tests
from ..harness.servers import Servers
from ..harness.stores import FlakyStore
from ..matrix.echo import Echo
from ..steps.operations import Log
from .calls import Rig, Start
from .recording import Recorder

__all__ = ["discretion", "pytest_generate_tests", "serve"]

_ANY = Policy()


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


@pytest.fixture
def start(serve: Servers, heard: Recorder) -> Start:
    """Starts a server; the options are those of the interceptor."""

    async def started(shape: str, policy: Policy = _ANY, **options: Any) -> Rig:
        store = FlakyStore(serve.path)
        await store.transaction(lambda db: db.execute("CREATE TABLE IF NOT EXISTS rows (play TEXT)"))
        service = await serve(
            Echo(store).methods(), policy=policy, store=store, attach=False, observers=[heard], **options
        )
        return Rig(service, store, shape, heard)

    return started
