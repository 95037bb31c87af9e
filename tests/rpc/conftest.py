"""The fixtures of servers; a ``grpc.server`` has room for as many waiting calls as one of ``grpc.aio``."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ..harness.fixtures import discretion, pytest_generate_tests
from ..harness.servers import Servers

__all__ = ["discretion", "pytest_generate_tests", "serve"]


@pytest.fixture
async def serve(kind: str, tmp_path: Path) -> AsyncIterator[Servers]:
    """Starts servers of the test's kind."""
    async with AsyncExitStack() as stack:
        yield Servers(kind, tmp_path, stack, flaky=True, workers=256, max_waiters=256)
