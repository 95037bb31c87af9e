from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.shop.helpers import Client, ScratchStore, open_shop


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    """A client of a real server that runs in this process."""
    async with open_shop(tmp_path / "shop.db") as client:
        yield client


@pytest.fixture
def scratch() -> Iterator[ScratchStore]:
    """A store for bare servicers."""
    store = ScratchStore()
    yield store
    store.close()
