"""Serves until the process is asked to end, on threads."""

import queue
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import grpc

from grpc_idempotency._server.signals import GRACE, on_signal

_LOOK_EVERY = 1.0
"""How often it is checked whether other code has stopped the server, in seconds."""


def serve(server: grpc.Server, *, grace: timedelta = GRACE, before_stop: Callable[[], object] | None = None) -> None:
    """Starts a server, and stops it on SIGTERM or SIGINT (Ctrl-C). Returns when it has stopped.

    With ``interceptor.attach(server)`` the stop includes the drain: the operations of calls that are cut off at the end
    of ``grace`` run to their end, and their outcomes are stored. A second signal ends the process at once.

    It also returns if other code stops the server.

    Args:
        server: A server that has not been started, with its services and ports.
        grace: How long running calls have to end.
        before_stop: Called before the server is stopped on a signal, and not if other code has stopped it. It may tell
            health checks that the server does not serve any more, or end streams that would last for all of ``grace``.
            If it raises, the server is stopped all the same.

    Raises:
        ValueError: It does not run in the main thread, which alone can handle signals.
    """
    # Not an Event: its set() takes a lock that this thread may hold at the moment of the signal.
    asked = queue.SimpleQueue[None]()
    with on_signal(lambda: asked.put(None)):
        server.start()
        try:
            if _is_asked(server, asked) and before_stop is not None:
                before_stop()
        finally:
            server.stop(grace.total_seconds()).wait()


def _is_asked(server: grpc.Server, asked: "queue.SimpleQueue[None]") -> bool:
    """Waits until a signal has asked for the end; returns False if other code has stopped the server."""
    while server.wait_for_termination(timeout=0):  # as long as it serves
        with suppress(queue.Empty):
            asked.get(timeout=_LOOK_EVERY)
            return True
    return False
