"""Waiting for what happens in another thread, another event loop or a store."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta


def ms(milliseconds: float) -> timedelta:
    return timedelta(milliseconds=milliseconds)


class Gate:
    """An event that any thread or event loop opens and any event loop waits for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = False
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def open(self) -> None:
        with self._lock:
            self._open = True
            waiters, self._waiters = self._waiters, []
        for loop, waiter in waiters:
            loop.call_soon_threadsafe(_wake, waiter)

    @property
    def opened(self) -> bool:
        return self._open

    async def wait(self, timeout: float = 20) -> None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if self._open:
                return
            self._waiters.append((loop, waiter))
        await asyncio.wait_for(waiter, timeout)


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


async def until(condition: Callable[[], Awaitable[object]], within: float = 15) -> None:
    """Polls for a state that no event announces, such as a record in a store."""
    give_up_at = time.monotonic() + within
    while not await condition():
        assert time.monotonic() < give_up_at, "the state was not reached"
        await asyncio.sleep(0.01)
