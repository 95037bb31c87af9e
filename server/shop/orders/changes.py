"""Wakes the watchers of an order when it may have changed."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Changes:
    """Wakes the watchers of this process at once. They poll for changes by other processes."""

    def __init__(self, *, poll: float = 1.0) -> None:
        self._poll = poll
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self.closed = False
        """True if the server stops, so that watchers do not wait."""

    def announce(self, order_id: str) -> None:
        """Wakes the watchers of an order. It need not have changed: they read it, and wait again if it is the same."""
        for watcher in self._watchers.get(order_id, ()):
            watcher.set()

    def close(self) -> None:
        """Wakes all watchers for good."""
        self.closed = True
        for order_id in self._watchers:
            self.announce(order_id)

    @property
    def watched(self) -> int:
        """How many orders are watched."""
        return len(self._watchers)

    @contextmanager
    def watching(self, order_id: str) -> Iterator[asyncio.Event]:
        """Yields an event that is set when the order may have changed. Clear it before reading the order, not after."""
        watcher = asyncio.Event()
        self._watchers.setdefault(order_id, set()).add(watcher)
        try:
            yield watcher
        finally:
            self._watchers[order_id].discard(watcher)
            if not self._watchers[order_id]:
                del self._watchers[order_id]

    async def wait(self, watcher: asyncio.Event) -> None:
        """Waits until the order may have changed, or it is time to poll again."""
        if not self.closed:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(watcher.wait(), self._poll)
