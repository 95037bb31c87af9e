"""One writer for callers in many loops, whatever becomes of them (6.2)."""

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore
from grpc_idempotency.testing import OUTCOME, TTL, a_claim

from .conftest import Make
from .operations import kept


def in_loops(coroutines: list[Callable[[], Coroutine[Any, Any, None]]]) -> list[BaseException]:
    """Runs each in a loop and thread of its own; what they raised."""
    errors: list[BaseException] = []

    def run(coroutine: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            asyncio.run(coroutine())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in coroutines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return errors


async def _work(store: AsyncSQLiteStore, rounds: int) -> None:
    async def one() -> None:
        claim = a_claim()
        assert await store.claim(claim) is None
        assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)

    for _ in range(rounds):
        await asyncio.gather(*(one() for _ in range(10)))


class TestLoops:
    def test_stores_in_several_loops_share_a_writer(self, path: Path) -> None:
        """Each gets its answers in its own loop; they come and go in any order."""

        async def serve(rounds: int) -> None:
            store = AsyncSQLiteStore(path)
            await _work(store, rounds)
            await store.close()

        assert in_loops([functools.partial(serve, 5 + 5 * n) for n in range(4)]) == []

    def test_one_store_serves_several_loops(self, path: Path) -> None:
        """A store object belongs to no loop."""
        store = AsyncSQLiteStore(path)
        assert in_loops([lambda: _work(store, 5)] * 4) == []
        asyncio.run(store.close())

    def test_a_loop_that_ends_without_closing_leaves_the_writer_to_others(self, path: Path) -> None:
        """Cut off in the middle of its calls, it takes nothing along."""
        store = AsyncSQLiteStore(path)

        async def cut_off() -> None:
            await store.open()
            for _ in range(20):
                asyncio.ensure_future(_work(store, 50))  # noqa: RUF006 - to be left hanging is the point
            await asyncio.sleep(0.01)

        for _ in range(3):
            asyncio.run(cut_off())
        asyncio.run(_work(store, 5))
        asyncio.run(store.close())

    def test_a_loop_that_stands_still_holds_nobody_up(self, path: Path) -> None:
        """A request of a loop that does not come round goes with the next of another."""
        store = AsyncSQLiteStore(path)
        still = asyncio.new_event_loop()
        still.run_until_complete(store.open())
        claims = [a_claim() for _ in range(3)]
        asked: list[asyncio.Future[Any]] = []
        still.call_soon(lambda: asked.extend(asyncio.ensure_future(store.claim(claim)) for claim in claims))
        still.call_soon(still.stop)
        still.run_forever()
        asyncio.run(_work(store, 3))
        assert still.run_until_complete(asyncio.gather(*asked)) == [None] * 3
        still.run_until_complete(store.close())
        still.close()

    def test_a_call_outside_of_a_loop_begins_in_one(self, path: Path) -> None:
        """It is a coroutine there, whether the store is open or not."""
        store, claim = AsyncSQLiteStore(path), a_claim()
        for _ in range(2):  # not open yet, and open
            called = store.claim(claim)
            assert asyncio.iscoroutine(called)
            assert asyncio.run(called) is None
        asyncio.run(store.close())

    async def test_closing_in_one_loop_while_another_opens(self, path: Path) -> None:
        """The file is never open twice in a process: the next opening waits for the closing."""

        async def open_and_close() -> None:
            for _ in range(20):
                store = AsyncSQLiteStore(path)
                await store.claim(a_claim())
                await store.close()

        assert await asyncio.to_thread(in_loops, [open_and_close] * 3) == []


async def test_a_mistake_of_the_writer_leaves_nobody_waiting(
    store: AsyncSQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong in its thread: those who wait are refused, and the next call opens the file again."""
    assert store._writer is not None
    async with kept(store):
        monkeypatch.setattr(store._writer.place, "trouble", lambda: 1 / 0)
        answers = asyncio.gather(*(store.claim(a_claim()) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(answer, StoreUnavailable) for answer in await answers)
    assert await store.claim(a_claim()) is None


async def test_a_cancelled_opening_is_still_an_opening(make: Make) -> None:
    """Whoever opens for all may go away."""
    store = make()
    opening = asyncio.ensure_future(store.open())
    await asyncio.sleep(0)
    opening.cancel()
    assert await store.claim(a_claim()) is None


async def test_a_forgotten_store_is_closed_with_its_object(path: Path) -> None:
    """Once it is garbage, so is its connection; the fixture sees to it that nothing is left."""
    store = AsyncSQLiteStore(path)
    await store.claim(a_claim())
    writer = store._writer
    assert writer is not None
    del store
    assert await asyncio.to_thread(writer.closed.wait, 10)
