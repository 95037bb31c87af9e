"""Both kinds of channels and servers."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from .net import Net


@pytest.fixture(params=["aio", "sync"])
async def net(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Net]:
    """Clients and servers of ``grpc.aio``, and of ``grpc``."""
    async with AsyncExitStack() as stack:
        yield Net(request.param, tmp_path, stack)
