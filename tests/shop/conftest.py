from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.harness.engines import postgres_server, postgresql, redis_url, valkey_server
from tests.shop.helpers import Client, ScratchStore, open_shop_on

from shop.config import Config

__all__ = ["client", "config", "postgres_server", "postgresql", "pytest_generate_tests", "redis_url", "valkey_server"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module's ``ENGINES`` name what keeps the shop's operations and rows in its tests; SQLite if there are none."""
    if "engine" in metafunc.fixturenames:
        engines = getattr(metafunc.module, "ENGINES", ["sqlite"])
        slow = [name if name == "sqlite" else pytest.param(name, marks=pytest.mark.slow) for name in engines]
        metafunc.parametrize("engine", slow)


@pytest.fixture
def config(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    """The settings of a shop on a free port, on the engine."""
    file = f"sqlite:///{tmp_path / 'shop.db'}"
    match engine:
        case "postgresql":
            return Config(port=0, store=request.getfixturevalue("postgresql"))
        case "redis":
            return Config(port=0, store=request.getfixturevalue("redis_url"), database=file)
        case _:
            return Config(port=0, store=file)


@pytest.fixture
async def client(config: Config) -> AsyncIterator[Client]:
    """A client of a real server that runs in this process."""
    async with open_shop_on(config) as client:
        yield client


@pytest.fixture
def scratch() -> Iterator[ScratchStore]:
    """A store for bare servicers."""
    store = ScratchStore()
    yield store
    store.close()
