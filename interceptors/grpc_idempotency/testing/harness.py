"""What the suite needs of the store that it tests."""

import asyncio
import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol, cast

from grpc_idempotency.store import AsyncStore, Store


class AsyncStoreHarness(Protocol):
    """What the suite needs beyond the contract. The database is empty at first, and time stands still."""

    async def store(self) -> AsyncStore:
        """One more store on the same database, not opened yet. The harness closes it at the end."""

    async def elapse(self, duration: timedelta) -> None:
        """Lets time pass for the database's clock, by exactly so much."""


class _InThreads:
    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return functools.partial(_in_thread, getattr(self._store, name))


async def _in_thread(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """A thread can't be cancelled: a caller that is has to see the call's end first."""
    running = asyncio.ensure_future(asyncio.to_thread(call, *args, **options))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def in_threads(store: Store) -> AsyncStore:
    """A store that blocks, as the suite wants it: each call runs in a thread of its own."""
    return cast(AsyncStore, _InThreads(store))
