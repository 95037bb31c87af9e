"""Fixtures of all tests that use the echo service."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ..rpc.conftest import discretion
from .handlers import KINDS
from .helpers import Servers

__all__ = ["discretion", "kind", "serve"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """``async def`` and ``def`` on a ``grpc.aio`` server, and a ``grpc.server`` (4.10)."""
    return str(request.param)


@pytest.fixture
async def serve(kind: str, tmp_path: Path) -> AsyncIterator[Servers]:
    async with AsyncExitStack() as stack:
        yield Servers(kind, tmp_path, stack)
