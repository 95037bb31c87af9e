"""The stores that gather what waits report their batches to those who observe them."""

import asyncio
import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import grpc_idempotency
from grpc_idempotency import aio
from grpc_idempotency.testing import a_claim

from ..harness.engines import postgres_server, postgresql, redis_url, valkey_server
from ..harness.servers import answered

__all__ = ["postgres_server", "postgresql", "redis_url", "valkey_server"]

Make = Callable[[], Any]


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store on each engine."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'records.db'}"
    found: str = request.getfixturevalue({"postgresql": "postgresql", "redis": "redis_url"}[request.param])
    return found


@pytest.fixture(params=[grpc_idempotency.store_from_url, aio.store_from_url], ids=["threads", "asyncio"])
def make(request: pytest.FixtureRequest, url: str) -> Make:
    """Makes stores of each kind."""
    return lambda: request.param(url)


class Heard:
    """What an observer of a store hears."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, float]] = []
        self.threads: set[threading.Thread] = set()
        self.changed = threading.Condition()

    def __call__(self, size: int, seconds: float) -> None:
        with self.changed:
            self.batches.append((size, seconds))
            self.threads.add(threading.current_thread())
            self.changed.notify_all()

    async def has(self, requests: int) -> None:
        """Waits until batches of so many requests were reported: a caller is answered before its batch is."""

        def wait() -> bool:
            with self.changed:
                return self.changed.wait_for(lambda: sum(size for size, _ in self.batches) >= requests, 20)

        assert await asyncio.to_thread(wait)


@pytest.mark.parametrize("early", [True, False], ids=["before it is opened", "once it is open"])
async def test_each_batch_is_reported(make: Make, early: bool) -> None:
    """Every request is in one batch, which took some time, and is reported in a thread of the store's."""
    store, heard = make(), Heard()
    if not early:
        await answered(store.open())
    end = store.observe(heard)
    for _ in range(3):
        assert await answered(store.claim(a_claim())) is None
    await heard.has(3)
    assert all(size > 0 and seconds > 0 for size, seconds in heard.batches)
    assert threading.current_thread() not in heard.threads
    end()
    end()
    before = len(heard.batches)
    assert await answered(store.claim(a_claim())) is None
    await answered(store.close())
    assert len(heard.batches) == before


async def test_an_observer_that_raises(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, the writer goes on, and the other one is told."""
    store, heard = make(), Heard()

    def fails(_size: int, _seconds: float) -> None:
        raise SystemExit

    store.observe(fails)
    store.observe(heard)
    for _ in range(2):
        assert await answered(store.claim(a_claim())) is None
    await heard.has(2)
    assert "an observer of the store failed" in caplog.text
    await answered(store.close())


async def test_two_stores_with_one_writer(make: Make) -> None:
    """Both are told of the batches that they share; one that is gone is told of none."""
    store, other, heard = make(), make(), Heard()
    other.observe(heard)
    await answered(other.open())
    await answered(store.open())
    await answered(other.claim(a_claim()))
    await heard.has(1)
    await answered(other.close())
    del other
    gc.collect()
    assert await answered(store.claim(a_claim())) is None
    await answered(store.close())
