"""The contract suite, run on the store of ``own_operator_store.py``."""

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from own_operator_store import OwnOperatorStore

from grpc_idempotency.operator_store import AsyncOperatorStore
from grpc_idempotency.testing import AsyncStoreContract, OperatorContract, in_threads


class OwnHarness:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._now = datetime(2030, 1, 1, tzinfo=timezone.utc)

    async def store(self) -> AsyncOperatorStore:
        return in_threads(OwnOperatorStore(self._path, lambda: self._now))

    async def elapse(self, duration: timedelta) -> None:
        self._now += duration


class TestOwnStore(AsyncStoreContract, OperatorContract):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> OwnHarness:
        return OwnHarness(tmp_path / "operations.db")
