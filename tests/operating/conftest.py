"""A store with operations, its URL, and what the command prints."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grpc_idempotency import SQLiteStore, store_from_url
from grpc_idempotency.operator_store import OperatorStore

from ..harness.engines import postgres_server, postgresql, redis_url, valkey_server
from ..harness.fixtures import discretion, pytest_generate_tests, serve
from .operations import Printed

__all__ = [
    "discretion",
    "engine",
    "path",
    "postgres_server",
    "postgresql",
    "printed",
    "pytest_generate_tests",
    "redis_url",
    "serve",
    "store",
    "there",
    "url",
    "valkey_server",
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "operations.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def store(path: Path) -> Any:
    store = SQLiteStore(path)
    store.open()
    yield store
    store.close()


@pytest.fixture(params=["sqlite", "postgresql", "valkey"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'operations.db'}"
    url: str = request.getfixturevalue("postgresql" if request.param == "postgresql" else "redis_url")
    return url


@pytest.fixture
def there(engine: str) -> Iterator[OperatorStore]:
    store: Any = store_from_url(engine)
    store.open()
    yield store
    store.close()


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    return lambda: capsys.readouterr().out
