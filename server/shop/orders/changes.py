"""Tells who watches an order that it may have changed."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Changes:
    """Wakes the watchers of this process at once; for changes by other processes they look again by themselves."""

    def __init__(self, *, poll: float = 1.0) -> None:
        self._poll = poll
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self.closed = False
        """Whether the server stops, so that there is nothing to wait for."""

    def announce(self, order_id: str) -> None:
        """The order has changed. A watcher that reads it anew and finds it as it was waits on, so it may be wrong."""
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
        """An event that is set when the order may have changed. Clear it before you read the order, not after."""
        watcher = asyncio.Event()
        self._watchers.setdefault(order_id, set()).add(watcher)
        try:
            yield watcher
        finally:
            self._watchers[order_id].discard(watcher)
            if not self._watchers[order_id]:
                del self._watchers[order_id]

    async def wait(self, watcher: asyncio.Event) -> None:
        """Until the order may have changed, or it is time to look again."""
        if not self.closed:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(watcher.wait(), self._poll)
