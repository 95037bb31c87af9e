"""Serves until the process is asked to end, on threads."""

import queue
from contextlib import suppress
from datetime import timedelta

import grpc

from grpc_idempotency._server.signals import GRACE, on_signal

_LOOK_EVERY = 1.0
"""How often it is checked whether other code has stopped the server, in seconds."""


def serve(server: grpc.Server, *, grace: timedelta = GRACE) -> None:
    """Starts a server, and stops it on SIGTERM or SIGINT (Ctrl-C). Returns when it has stopped.

    With ``interceptor.attach(server)`` the stop includes the drain: the operations of calls that are cut off at the end
    of ``grace`` run to their end, and their outcomes are stored. A second signal ends the process at once.

    It also returns if other code stops the server.

    Args:
        server: A server that has not been started, with its services and ports.
        grace: How long running calls have to end.

    Raises:
        ValueError: It does not run in the main thread, which alone can handle signals.
    """
    # Not an Event: its set() takes a lock that this thread may hold at the moment of the signal.
    asked = queue.SimpleQueue[None]()
    with on_signal(lambda: asked.put(None)):
        server.start()
        while server.wait_for_termination(timeout=0):  # as long as it serves
            with suppress(queue.Empty):
                asked.get(timeout=_LOOK_EVERY)
                break
        server.stop(grace.total_seconds()).wait()
