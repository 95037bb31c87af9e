"""The PostgreSQL store, for asyncio and for threads, against the one contract suite."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from grpc_idempotency.errors import TransactionMisuse
from grpc_idempotency.testing import (
    AsyncOperatorHarness,
    AsyncStoreContract,
    AsyncTransactionalStoreContract,
    AsyncTransactionHarness,
    OperatorContract,
    TransactionalStoreContract,
    in_threads,
    opened,
)
from grpc_idempotency.transactions import Database

from .conftest import Make, MakeBlocking, Place


class Harness:
    placeholder = "%s"

    def __init__(self, place: Place, make: Callable[[], Any]) -> None:
        self._place = place
        self._make = make

    async def store(self) -> Any:
        return self._make()

    async def elapse(self, duration: timedelta) -> None:
        self._place.elapse(duration)


class TestStores(AsyncStoreContract, OperatorContract):
    # What differs between the two is in the calls, which the SQLite store tests on both in every run.
    @pytest.fixture(params=["aio", pytest.param("threads", marks=pytest.mark.slow)])
    def harness(
        self, request: pytest.FixtureRequest, place: Place, make: Make, make_blocking: MakeBlocking
    ) -> AsyncOperatorHarness:
        return Harness(place, make if request.param == "aio" else lambda: in_threads(make_blocking()))


class TestTransactions(AsyncTransactionalStoreContract):
    @pytest.fixture
    def harness(self, place: Place, make: Make) -> AsyncTransactionHarness:
        return Harness(place, make)

    async def test_a_function_that_awaits_is_refused(self, harness: AsyncTransactionHarness) -> None:
        """Only an ``async def`` function is awaited. A plain one that returns an awaitable is refused."""
        store, orders = await opened(harness)

        async def fn(_: Database) -> None: ...

        def hidden(db: Database) -> object:
            orders.insert("a")(db)
            return fn(db)

        with pytest.raises(TransactionMisuse):
            await store.transaction(hidden)
        assert await orders.names(store) == []


class TestTransactionsInThreads(TransactionalStoreContract):
    @pytest.fixture
    def harness(self, place: Place, make_blocking: MakeBlocking) -> AsyncTransactionHarness:
        return Harness(place, lambda: in_threads(make_blocking()))
