"""The queue of pending requests, and when the writer's thread takes them.

No request is left behind, for three reasons. ``_scheduled`` says that a drain is posted or running, and it changes
under the lock alone. Whoever adds a request and finds it unset sets it and posts a drain. A drain unsets it only at an
instant at which the queue is empty: what is added before that instant it still takes, and what is added after it posts
another.

Nothing depends on an event loop or a thread of callers to come round, so that any of them may end at any time.
"""

import collections
import threading
from collections.abc import Callable
from typing import Any

from grpc_idempotency.stores._calls.requests import Request

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

    def is_empty(self) -> bool:
        """Returns whether nothing waits."""
        with self._lock:
            return not self._requests

    def ends(self) -> bool:
        """Returns whether the queue is closing and empty, so that this drain is its last."""
        with self._lock:
            return self._closing and not self._requests

    def take(self) -> list[AnyRequest]:
        """Takes what waits, in its order; there may be nothing while the queue is closing, or after a withdrawal."""
        with self._lock:
            requests = self._requests
            return [requests.popleft() for _ in range(min(len(requests), _MOST_AT_ONCE))]

    def withdraw(self, chosen: Callable[[AnyRequest], bool]) -> list[AnyRequest]:
        """Takes out the requests that are chosen, from any thread; the others keep their places."""
        with self._lock:
            withdrawn = [request for request in self._requests if chosen(request)]
            for request in withdrawn:
                self._requests.remove(request)
        return withdrawn

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
