"""The queue of pending requests, and when the writer's thread takes them.

No request is left behind, for three reasons. ``_scheduled`` says that a drain is posted or running, and it changes
under the lock alone. Whoever adds a request and finds it unset sets it and posts a drain. A drain unsets it only at an
instant at which the queue is empty: what is added before that instant it still takes, and what is added after it posts
another.

Nothing depends on an event loop or a thread of callers to come round, so that any of them may end at any time.
"""

import collections
import threading
from typing import Any

from grpc_idempotency.stores.sqlite.requests import Request

AnyRequest = Request[Any]
_MOST_AT_ONCE = 4096


class Queue:
    """Requests that any thread adds and the writer's thread takes.

    Args:
        scheduled: Whether a drain will come without being posted: the first one, once the file is open.
    """

    def __init__(self, *, scheduled: bool) -> None:
        self._lock = threading.Lock()
        self._requests: collections.deque[AnyRequest] = collections.deque()
        self._scheduled = scheduled
        self._closing = False

    def add(self, request: AnyRequest) -> bool:
        """Adds a request. Returns whether the caller has to post a drain."""
        with self._lock:
            self._requests.append(request)
            return self._schedule()

    def close(self) -> bool:
        """Makes the drain that finds the queue empty its last. Returns whether the caller has to post a drain."""
        with self._lock:
            self._closing = True
            return self._schedule()

    def closed(self) -> None:
        """Ends the closing: from now on a drain only refuses what there is."""
        with self._lock:
            self._closing = False

    def take(self) -> list[AnyRequest]:
        """Takes what waits, in its order; nothing is there only while the queue is closing."""
        with self._lock:
            requests = self._requests
            return [requests.popleft() for _ in range(min(len(requests), _MOST_AT_ONCE))]

    def put_back(self, requests: list[AnyRequest]) -> None:
        """Puts requests that there was no time for before all others."""
        with self._lock:
            self._requests.extendleft(reversed(requests))

    def rest(self) -> bool:
        """Ends the drain if there is nothing left to do. Returns whether it has ended."""
        with self._lock:
            self._scheduled = bool(self._requests) or self._closing
            return not self._scheduled

    def _schedule(self) -> bool:
        if self._scheduled:
            return False
        self._scheduled = True
        return True
