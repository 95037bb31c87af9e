"""Every store of the library against the one contract suite."""

from datetime import timedelta

import pytest

from grpc_idempotency.store import AsyncStore
from grpc_idempotency.stores.memory import AsyncMemoryStore
from grpc_idempotency.testing import AsyncStoreContract, AsyncStoreHarness

from .conftest import HandClock, Make


class MemoryHarness:
    """All "stores on the database" are the one store, which is its database."""

    def __init__(self, clock: HandClock) -> None:
        self._clock = clock
        self._store = AsyncMemoryStore(clock=clock.now)

    async def store(self) -> AsyncStore:
        return self._store

    async def elapse(self, duration: timedelta) -> None:
        self._clock.elapse(duration)


class SQLiteHarness:
    def __init__(self, clock: HandClock, make: Make) -> None:
        self._clock = clock
        self._make = make

    async def store(self) -> AsyncStore:
        return self._make()

    async def elapse(self, duration: timedelta) -> None:
        self._clock.elapse(duration)


class TestStores(AsyncStoreContract):
    @pytest.fixture(params=["memory", "sqlite"])
    def harness(self, request: pytest.FixtureRequest, clock: HandClock, make: Make) -> AsyncStoreHarness:
        return MemoryHarness(clock) if request.param == "memory" else SQLiteHarness(clock, make)
