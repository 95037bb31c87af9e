"""What the interceptors do around a handler, for tests of ``transaction``."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from grpc_idempotency._operation.running import enter
from grpc_idempotency._operation.steps import Steps
from grpc_idempotency._operation.sync import SyncRunning
from grpc_idempotency.records import Claim, Code, Outcome
from grpc_idempotency.store import Database
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore
from grpc_idempotency.testing import TTL


def seal(reply: object) -> Outcome:
    return Outcome(status=Code.OK, message=str(reply).encode())


@contextlib.contextmanager
def keyed(store: object, claim: Claim, seal: Callable[[object], Outcome] = seal) -> Iterator[SyncRunning]:
    """What the interceptor does around a handler."""
    operation = SyncRunning(
        name=claim.name,
        method=claim.method,
        fence=claim.fence,
        attempt=1,
        principal=b"",
        store=store,
        ttl=TTL,
        steps=Steps((), unwinds=False),
        seal=seal,
    )
    enter(operation)
    try:
        yield operation
    finally:
        enter(None)


@contextlib.asynccontextmanager
async def kept(store: AsyncSQLiteStore) -> AsyncIterator[None]:
    """Keeps the connection's thread while what is within is asked for, so that all of it is there when it comes."""
    loop, keeps, go = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def keep(_db: sqlite3.Connection) -> None:
        loop.call_soon_threadsafe(keeps.set)
        go.wait()

    assert store._writer is not None
    assert store._writer._connection is not None
    store._writer._connection.post(keep)
    await keeps.wait()  # a group that was answered just now may not have ended
    try:
        yield
        for _ in range(3):
            await asyncio.sleep(0)
    finally:
        go.set()


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
