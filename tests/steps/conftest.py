"""What the tests of steps and of recovery share: servers of every kind, and a watch over what is logged."""

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ..rpc.helpers import secrets_told
from .net import ALL_KINDS, Net


@pytest.fixture(autouse=True)
def discretion(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No key and no body of a request is logged, at any level (2.3), and nothing fails unseen."""
    secrets_told.clear()
    caplog.set_level(logging.DEBUG, "grpc_idempotency")
    yield
    formatter = logging.Formatter("%(name)s %(message)s")
    for phase in ("setup", "call", "teardown"):
        for record in caplog.get_records(phase):
            line = formatter.format(record)
            assert not [secret for secret in secrets_told if secret in line], line
            unseen = record.name == "asyncio" and record.levelno >= logging.ERROR and "PollerCompletion" not in line
            assert not unseen, line
            for complaint in ("background task of the interceptor failed", "could not be brought to its end"):
                assert complaint not in line, line
            assert "was to be done at its time failed" not in line, line


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test runs with each kind of handler and server, or with those that its module or itself names (4.10)."""
    if "kind" in metafunc.fixturenames:
        own = [mark for mark in metafunc.definition.iter_markers("parametrize") if "kind" in mark.args[0]]
        if not own:
            metafunc.parametrize("kind", getattr(metafunc.module, "KINDS", ALL_KINDS))


@pytest.fixture
async def net(kind: str, tmp_path: Path) -> AsyncIterator[Net]:
    async with AsyncExitStack() as stack:
        yield Net(kind, tmp_path, stack)


@pytest.fixture
def promptly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers look for operations to finish many times a second."""
    monkeypatch.setattr("grpc_idempotency._server.aio.interceptor.EVERY", 0.05)
    monkeypatch.setattr("grpc_idempotency._server.sync.interceptor.EVERY", 0.05)
