"""Both kinds of channels and servers."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from ..harness.handlers import EACH_SERVER
from .net import Net


@pytest.fixture(params=EACH_SERVER)
async def net(request: pytest.FixtureRequest) -> AsyncIterator[Net]:
    """Clients and servers of ``grpc.aio``, and of ``grpc``."""
    async with AsyncExitStack() as stack:
        yield Net(request.param, stack)
