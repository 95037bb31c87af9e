"""A store with operations, its URL, and what the command prints."""

from pathlib import Path
from typing import Any

import pytest

from grpc_idempotency import SQLiteStore

from ..harness.fixtures import discretion, pytest_generate_tests, serve
from .operations import Printed

__all__ = ["discretion", "path", "printed", "pytest_generate_tests", "serve", "store", "url"]


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


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    return lambda: capsys.readouterr().out
