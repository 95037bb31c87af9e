"""The Redis store, for asyncio and for threads, on one server and on a cluster, against the one contract suite."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from grpc_idempotency.operator_store import AsyncOperatorStore
from grpc_idempotency.testing import AsyncOperatorHarness, AsyncStoreContract, OperatorContract, in_threads

from .conftest import HandClock, Make, MakeBlocking


class RedisHarness:
    def __init__(self, clock: HandClock, make: Callable[[], AsyncOperatorStore]) -> None:
        self._clock = clock
        self._make = make

    async def store(self) -> AsyncOperatorStore:
        return self._make()

    async def elapse(self, duration: timedelta) -> None:
        self._clock.elapse(duration)


class TestStores(AsyncStoreContract, OperatorContract):
    # What differs between asyncio and threads is in the calls, which the SQLite store tests on both in every run.
    @pytest.fixture(
        params=[
            "one server",
            pytest.param("one server in threads", marks=pytest.mark.slow),
            "cluster",
            pytest.param("cluster in threads", marks=pytest.mark.slow),
        ]
    )
    def harness(
        self, request: pytest.FixtureRequest, clock: HandClock, make: Make, make_blocking: MakeBlocking
    ) -> AsyncOperatorHarness:
        kind: str = request.param
        clustered = kind.startswith("cluster")
        url = request.getfixturevalue("cluster")[0].url if clustered else request.getfixturevalue("server")
        if kind.endswith("threads"):
            return RedisHarness(clock, lambda: in_threads(make_blocking(url, _clock=clock)))
        return RedisHarness(clock, lambda: make(url, _clock=clock))
