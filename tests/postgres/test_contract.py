"""The PostgreSQL store, for asyncio and for threads, against the one contract suite."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from grpc_idempotency.store import AsyncStore
from grpc_idempotency.testing import AsyncStoreContract, AsyncStoreHarness, in_threads

from .conftest import Make, MakeBlocking, Place


class Harness:
    placeholder = "%s"

    def __init__(self, place: Place, make: Callable[[], AsyncStore]) -> None:
        self._place = place
        self._make = make

    async def store(self) -> AsyncStore:
        return self._make()

    async def elapse(self, duration: timedelta) -> None:
        self._place.elapse(duration)


class TestStores(AsyncStoreContract):
    @pytest.fixture(params=["aio", "threads"])
    def harness(
        self, request: pytest.FixtureRequest, place: Place, make: Make, make_blocking: MakeBlocking
    ) -> AsyncStoreHarness:
        return Harness(place, make if request.param == "aio" else lambda: in_threads(make_blocking()))
