"""Calls of a store within a transaction's function are refused and block nobody (5.1)."""

import asyncio
import concurrent.futures
import functools
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from grpc_idempotency.errors import StoreUnavailable, TransactionMisuse
from grpc_idempotency.stores._sqlite import nesting
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore, SQLiteStore
from grpc_idempotency.testing import OUTCOME, TTL, a_claim
from grpc_idempotency.transactions import Database

Call = Callable[[], Any]


def here(call: Call) -> Any:
    return call()


def in_a_thread(call: Call) -> Any:
    """Starts a thread and waits for its end."""
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(call())
        except BaseException as error:
            answers.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(answers[0], BaseException):
        raise answers[0]
    return answers[0]


def in_a_pool(call: Call) -> Any:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def in_an_old_pool(call: Call) -> Any:
    """In a thread that was there before."""
    return _old.submit(call).result()


def in_a_task(call: Call) -> Any:
    async def run() -> Any:
        return await asyncio.create_task(asyncio.to_thread(call))

    return asyncio.run(run())


_old = concurrent.futures.ThreadPoolExecutor(1)
_old.submit(int).result()
WAYS = [here, in_a_thread, in_a_pool, in_an_old_pool, in_a_task]
TWICE = [lambda call: in_a_thread(lambda: in_a_pool(call)), lambda call: in_a_pool(lambda: in_a_thread(call))]


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteStore(path)
    store.open()
    yield store
    store.close()


@pytest.fixture
def other(path: Path, store: SQLiteStore) -> Iterator[SQLiteStore]:
    """Another store object on the same file."""
    other = SQLiteStore(path)
    other.open()
    yield other
    other.close()


def one(db: Database) -> int:
    value: int = db.execute("SELECT 1").fetchone()[0]  # type: ignore[index]  # there is one
    return value


CALLS: dict[str, Callable[[SQLiteStore], Any]] = {
    "read": lambda store: store.read(one),
    "transaction": lambda store: store.transaction(one),
    "get": lambda store: store.get(b"name"),
    "list": lambda store: store.list(),
    "claim": lambda store: store.claim(a_claim()),
    "complete": lambda store: store.complete(b"name", b"fence", OUTCOME, TTL),
    "sweep": lambda store: store.sweep(),
    "open": lambda store: store.open(),
    "close": lambda store: store.close(),
}


def refused(store: SQLiteStore, way: Callable[[Call], Any], call: Call) -> None:
    """The call is refused within a function, which may go on; and the store goes on."""

    def fn(db: Database) -> int:
        with pytest.raises(TransactionMisuse, match="within a transaction's function"):
            way(call)
        return one(db)

    assert store.transaction(fn) == 1
    assert store.read(fn) == 1
    assert store.claim(a_claim()) is None


@pytest.mark.parametrize("name", CALLS)
def test_any_call_is_refused(store: SQLiteStore, other: SQLiteStore, name: str) -> None:
    """Of the same store, and of another one on the file."""
    for called in (store, other):
        refused(store, here, functools.partial(CALLS[name], called))


@pytest.mark.parametrize("way", WAYS + TWICE)
def test_from_any_thread_that_the_function_waits_for(
    store: SQLiteStore, other: SQLiteStore, way: Callable[[Call], Any]
) -> None:
    """However it came to have the call made there."""
    refused(store, way, lambda: other.get(b"name"))


@pytest.mark.parametrize("way", [here, in_a_thread, in_a_pool])
def test_from_a_loop_of_its_own(path: Path, store: SQLiteStore, way: Callable[[Call], Any]) -> None:
    """By way of the other facade."""
    other = AsyncSQLiteStore(path)
    refused(store, way, lambda: asyncio.run(_got(other)))
    asyncio.run(other.close())


async def _got(store: AsyncSQLiteStore) -> object:
    return await store.get(b"name")


async def test_in_its_callers_loop(path: Path) -> None:
    """Which it waits for."""
    store, loop = AsyncSQLiteStore(path), asyncio.get_running_loop()

    def fn(db: Database) -> int:
        with pytest.raises(TransactionMisuse, match="within a transaction's function"):
            asyncio.run_coroutine_threadsafe(_got(store), loop).result()
        return one(db)

    assert await store.transaction(fn) == 1
    assert await store.claim(a_claim()) is None
    await store.close()


async def test_what_the_function_leaves_to_be_done_later_is_no_call_of_its_own(path: Path) -> None:
    """A task that it has started may use the store when the function is over."""
    store, loop, over = AsyncSQLiteStore(path), asyncio.get_running_loop(), asyncio.Event()
    tasks: list[Any] = []

    async def later() -> Any:
        await over.wait()
        return await store.claim(a_claim())

    await store.transaction(lambda db: tasks.append(asyncio.run_coroutine_threadsafe(later(), loop)))
    over.set()
    assert await asyncio.wrap_future(tasks[0]) is None
    await store.close()


def test_others_are_not_refused_while_it_runs(store: SQLiteStore) -> None:
    """In new threads, and while it waits for something else."""
    answers: list[Any] = []

    def ask() -> None:
        answers.append(store.claim(a_claim()))

    looked, look = threading.Event(), nesting.Watch._look

    def looking(self: nesting.Watch, lasts: float) -> None:
        look(self, lasts)
        looked.set()

    def fn(db: Database) -> None:
        threads.append(threading.Thread(target=ask))
        threads[0].start()
        assert looked.wait(10)

    threads: list[threading.Thread] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nesting.Watch, "_look", looking)
        store.transaction(fn)
    threads[0].join(10)
    assert answers == [None]


def test_nobody_waits_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing tells that a function waits for a caller, the caller is answered when its patience is spent."""
    monkeypatch.setattr(nesting, "_LEAST_PATIENCE", 0.0)
    monkeypatch.setattr(nesting, "_LOOK", 0.01)
    store = SQLiteStore(path, busy_timeout=TTL * 0)
    store.open()
    answers: list[BaseException] = []
    told = threading.Event()

    def ask() -> None:
        try:
            store.get(b"name")
        except BaseException as error:
            answers.append(error)
        told.set()

    def fn(db: Database) -> int:
        threading.Thread(target=ask, daemon=True).start()
        assert told.wait(10)
        return one(db)

    assert store.transaction(fn) == 1
    assert isinstance(answers[0], StoreUnavailable)
    assert answers[0].landed is False
    assert store.get(b"name") is None
    store.close()


@pytest.mark.parametrize("enabled", [True, False])
def test_no_collection_while_the_interpreter_looks_at_its_threads(
    monkeypatch: pytest.MonkeyPatch, enabled: bool
) -> None:
    """One could deadlock the process (CPython's gh-106883); whether there are collections stays as it was."""
    seen: list[bool] = []
    frames = sys._current_frames

    def looked() -> Any:
        seen.append(gc.isenabled())
        return frames()

    monkeypatch.setattr(sys, "_current_frames", looked)
    (gc.enable if enabled else gc.disable)()
    try:
        assert threading.get_ident() in nesting._frames()
        assert (seen, gc.isenabled()) == ([False], enabled)
    finally:
        gc.enable()
