"""What waits for the next group, and the moment at which a group begins.

A group costs much the same whatever its size, most of all in turns of the GIL. So while all callers live in one event
loop, a group begins when that loop has nothing else to do: all tasks that the last answers have woken have asked again
by then, and go together. A loop that always has something to do is not waited for longer than ``LONGEST``. Where
callers are in several loops or threads, nothing may depend on one of them coming round, and the writer's thread goes on
for as long as anything waits. What it gains: docs/decisions/002-sqlite-writer.md.
"""

import asyncio
import collections
import time
from collections.abc import Callable
from typing import Any

from grpc_idempotency.stores.sqlite.requests import Request, Threads

AnyRequest = Request[Any]
_MOST_AT_ONCE = 4096
IDLE = 30e-6
"""An event loop that comes round within so many seconds had nothing else to do."""
LONGEST = 0.004
"""How many seconds a request waits for others to join it."""


class Waiting:
    """A queue that any thread adds to and the writer's thread takes from."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._requests: collections.deque[AnyRequest] = collections.deque()
        self._home: asyncio.AbstractEventLoop | None = None
        self._due = False  # the home loop will come round to _begin. This and the next two are touched there alone.
        self._due_since = 0.0
        self._last_round = 0.0
        self.mixed = False
        """Whether the callers are in several loops, or in threads."""
        self._threads = False
        self.busy = True
        """Whether the writer will look again by itself; at first it will, once it is connected."""

    def __bool__(self) -> bool:
        return bool(self._requests)

    def add(self, request: AnyRequest) -> None:
        """Adds a request, in its loop. It is on every call's path."""
        self._requests.append(request)
        if request.loop is not self._home:
            self._meet(request.loop)
        if self.busy:
            return
        if self.mixed or self._home is None:
            self.wake()
        elif not self._due:
            self._expect(self._home)

    def take(self) -> list[AnyRequest]:
        """What waits, in its order."""
        requests = self._requests
        return [requests.popleft() for _ in range(min(len(requests), _MOST_AT_ONCE))]

    def put_back(self, requests: list[AnyRequest]) -> None:
        """Those that there was no time for: they come first next time."""
        self._requests.extendleft(reversed(requests))

    def wake(self) -> None:
        """Lets the writer look now. Twice does no harm."""
        self.busy = True
        self._wake()

    def settled(self, loop: asyncio.AbstractEventLoop | Threads) -> None:
        """In its loop: a group's answers are with their callers, who have not been resumed yet."""
        if self._requests and not self.busy and not self._due and loop is self._home and self._home is not None:
            self._expect(self._home)

    def _expect(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = True
        self._due_since = self._last_round = time.perf_counter()
        loop.call_soon(self._begin, loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.perf_counter()
        if now - self._last_round > IDLE and now - self._due_since < LONGEST:
            self._last_round = now
            loop.call_soon(self._begin, loop)
            return
        self._due = False
        if self._requests and not self.busy:
            self.wake()

    def _meet(self, loop: asyncio.AbstractEventLoop | Threads) -> None:
        if isinstance(loop, Threads):
            self._threads = self.mixed = True
        elif self._home is None or self._home.is_closed():
            self._home, self._due, self.mixed = loop, False, self._threads
        else:
            self.mixed = True
