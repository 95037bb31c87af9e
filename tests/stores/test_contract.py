"""Every store of the library, for asyncio and for threads, against the one contract suite."""

from collections.abc import Callable
from datetime import timedelta
from typing import cast

import pytest

from grpc_idempotency.operator_store import AsyncOperatorStore
from grpc_idempotency.stores.memory import AsyncMemoryStore, MemoryStore
from grpc_idempotency.testing import (
    AsyncOneCommitHarness,
    AsyncOneCommitStoreContract,
    AsyncOperatorHarness,
    AsyncStoreContract,
    OneCommitStoreContract,
    OperatorContract,
    in_threads,
)
from grpc_idempotency.transactions import AsyncOneCommitStore

from .conftest import HandClock, Make, MakeBlocking


class MemoryHarness:
    """All "stores on the database" are the one store, which is its database."""

    def __init__(self, clock: HandClock, store: AsyncOperatorStore) -> None:
        self._clock = clock
        self._store = store

    async def store(self) -> AsyncOperatorStore:
        return self._store

    async def elapse(self, duration: timedelta) -> None:
        self._clock.elapse(duration)


class SQLiteHarness:
    placeholder = "?"

    def __init__(self, clock: HandClock, make: Callable[[], AsyncOneCommitStore]) -> None:
        self._clock = clock
        self._make = make

    async def store(self) -> AsyncOneCommitStore:
        return self._make()

    async def elapse(self, duration: timedelta) -> None:
        self._clock.elapse(duration)


class TestStores(AsyncStoreContract, OperatorContract):
    # What differs between asyncio and threads is in the calls, which the SQLite store tests on both in every run.
    @pytest.fixture(
        params=["memory", pytest.param("memory in threads", marks=pytest.mark.slow), "sqlite", "sqlite in threads"]
    )
    def harness(
        self, request: pytest.FixtureRequest, clock: HandClock, make: Make, make_blocking: MakeBlocking
    ) -> AsyncOperatorHarness:
        harnesses: dict[str, Callable[[], object]] = {
            "memory": lambda: MemoryHarness(clock, AsyncMemoryStore(clock=clock.now)),
            "memory in threads": lambda: MemoryHarness(clock, in_threads(MemoryStore(clock=clock.now))),
            "sqlite": lambda: SQLiteHarness(clock, make),
            "sqlite in threads": lambda: SQLiteHarness(clock, lambda: in_threads(make_blocking())),
        }
        return cast(AsyncOperatorHarness, harnesses[request.param]())


class TestTransactions(AsyncOneCommitStoreContract):
    @pytest.fixture
    def harness(self, clock: HandClock, make: Make) -> AsyncOneCommitHarness:
        return SQLiteHarness(clock, make)


class TestTransactionsInThreads(OneCommitStoreContract):
    @pytest.fixture
    def harness(self, clock: HandClock, make_blocking: MakeBlocking) -> AsyncOneCommitHarness:
        return SQLiteHarness(clock, lambda: in_threads(make_blocking()))
