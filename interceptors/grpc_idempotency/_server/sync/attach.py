"""Hooks for the start and stop of a ``grpc.Server``, which gives interceptors none (8)."""

import threading
from collections.abc import Callable, Iterable
from typing import Any

import grpc

from grpc_idempotency._server.interceptor import Served


class Attachment:
    """Replaces some methods of one server object, to learn of its services, its start and its stop.

    Args:
        server: The server.
        at_start: Called with the methods of the server before it starts.
        at_stop: Called when the server has stopped.
    """

    def __init__(
        self,
        server: grpc.Server,
        *,
        at_start: Callable[[Served], None],
        at_stop: Callable[[], None],
    ) -> None:
        self._at_start = at_start
        self._at_stop = at_stop
        self._served = Served()
        self._lock = threading.Lock()
        self._stopped: threading.Event | None = None
        self._add_generic = server.add_generic_rpc_handlers
        self._start, self._stop, self._wait = server.start, server.stop, server.wait_for_termination
        for name in ("add_generic_rpc_handlers", "start", "stop", "wait_for_termination"):
            setattr(server, name, getattr(self, name))

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any]) -> None:
        """Notes the methods, and adds them."""
        handlers = tuple(generic_rpc_handlers)
        self._served.add(handlers)
        self._add_generic(handlers)

    def start(self) -> None:
        """Calls ``at_start``, which makes all checks, and then starts the server."""
        self._at_start(self._served)
        self._start()

    def stop(self, grace: float | None) -> threading.Event:
        """Stops the server.

        Args:
            grace: The seconds that calls have to end; ``None``: they end at once.

        Returns:
            An event that is set when the server has stopped and its operations are drained.
        """
        with self._lock:
            first = self._stopped is None
            if self._stopped is None:
                # Set before the server stops: wait_for_termination reads it as soon as the server has stopped.
                self._stopped = threading.Event()
            finished = self._stopped
        stopped = self._stop(grace)
        if first:
            finish = threading.Thread(
                target=self._finish, args=(stopped, finished), name="grpc-idempotency-stop", daemon=True
            )
            try:
                finish.start()
            except RuntimeError:  # no thread can be started, so the caller waits
                self._finish(stopped, finished)
        return finished

    def _finish(self, stopped: threading.Event, finished: threading.Event) -> None:
        stopped.wait()
        try:
            self._at_stop()
        finally:
            finished.set()

    def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Waits until the server has stopped and its operations are drained."""
        timed_out = self._wait(timeout)
        if not timed_out and self._stopped is not None:
            self._stopped.wait()
        return timed_out
