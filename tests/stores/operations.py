"""Calls that wait for the database at the same time."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.stores._sqlite.requests import Flush
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore
from grpc_idempotency.transactions import Database


class _Job:
    """Tables whose preparation is the job, and fails: the writer answers a flush all the same, and does no more."""

    ready = False

    def __init__(self, job: Callable[[sqlite3.Connection], object]) -> None:
        self._job = job
        self.error: Exception | None = None

    def prepare(self, db: sqlite3.Connection, *, migrate: bool) -> None:
        try:
            self._job(db)
        except Exception as error:
            self.error = error
        raise StoreUnavailable("that was all")


async def on_thread(store: AsyncSQLiteStore, job: Callable[[sqlite3.Connection], object]) -> None:
    """Runs something on the connection's thread, behind the store's back."""
    request = Flush()
    request.tables = tables = _Job(job)
    request.loop = asyncio.get_running_loop()
    request.waiter = request.loop.create_future()
    assert store._writer is not None
    store._writer.submit(request)
    await request.waiter
    if tables.error is not None:
        raise tables.error


@contextlib.asynccontextmanager
async def kept(store: AsyncSQLiteStore) -> AsyncIterator[None]:
    """Keeps the connection's thread while what is within is asked for, so that all of it is there when it comes."""
    loop, keeps, go = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def keep(_db: sqlite3.Connection) -> None:
        loop.call_soon_threadsafe(keeps.set)
        go.wait()

    keeping = asyncio.ensure_future(on_thread(store, keep))
    await keeps.wait()  # a group that was answered just now may not have ended
    try:
        yield
        for _ in range(3):
            await asyncio.sleep(0)
    finally:
        go.set()
        await asyncio.gather(keeping, return_exceptions=True)  # the file may have been lost meanwhile


async def traced(store: AsyncSQLiteStore) -> list[str]:
    """A list that every statement of the store's is added to from now on."""
    statements: list[str] = []
    await on_thread(store, lambda db: db.set_trace_callback(statements.append))
    return statements


def commits(statements: Iterable[str]) -> int:
    """How many transactions have written operations; the heartbeat has some of its own."""
    count, writes = 0, False
    for statement in statements:
        writes = not statement.startswith("BEGIN") and (writes or "grpc_idempotency_operations" in statement)
        count += writes and statement == "COMMIT"
    return count


async def together(store: AsyncSQLiteStore, *calls: Callable[[], Awaitable[Any]]) -> list[Any]:
    """The answers to these calls, all of which wait for the database at the same time."""
    loop, busy, free = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def blocker(_db: Database) -> None:
        loop.call_soon_threadsafe(busy.set)
        free.wait(10)

    before = asyncio.create_task(store.transaction(blocker))
    await busy.wait()
    tasks = [asyncio.ensure_future(call()) for call in calls]
    await asyncio.sleep(0)
    free.set()
    await before
    return await asyncio.gather(*tasks, return_exceptions=True)
