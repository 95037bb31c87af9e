"""Fixtures of the suites that call servers; a suite's conftest imports those that it uses."""

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from .handlers import ALL_KINDS
from .replies import secrets_told
from .servers import Servers


@pytest.fixture(autouse=True)
def discretion(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No log line, at any level, contains a key or a request's body (2.3), and no task fails unseen."""
    secrets_told.clear()
    caplog.set_level(logging.DEBUG, "grpc_idempotency")
    yield
    formatter = logging.Formatter("%(name)s %(message)s")
    for phase in ("setup", "call", "teardown"):
        for record in caplog.get_records(phase):
            line = formatter.format(record)
            assert not [secret for secret in secrets_told if secret in line], line
            # gRPC's poller is woken for events that another loop of the process has had already.
            unseen = record.name == "asyncio" and record.levelno >= logging.ERROR and "PollerCompletion" not in line
            assert not unseen, line
            assert "background task of the interceptor failed" not in line, line
            assert "could not be brought to its end" not in line, line
            assert "was to be done at its time failed" not in line, line


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test runs with each kind of handler, or with those that its module's ``KINDS`` or itself names (4.10)."""
    if "kind" in metafunc.fixturenames:
        own = [mark for mark in metafunc.definition.iter_markers("parametrize") if "kind" in mark.args[0]]
        if not own:
            metafunc.parametrize("kind", getattr(metafunc.module, "KINDS", ALL_KINDS))


@pytest.fixture
async def serve(kind: str, tmp_path: Path) -> AsyncIterator[Servers]:
    """Starts servers of the test's kind."""
    async with AsyncExitStack() as stack:
        yield Servers(kind, tmp_path, stack)


@pytest.fixture
def promptly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers look for operations to finish many times a second."""
    monkeypatch.setattr("grpc_idempotency._server.aio.interceptor.EVERY", 0.05)
    monkeypatch.setattr("grpc_idempotency._server.sync.interceptor.EVERY", 0.05)
