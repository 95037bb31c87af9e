"""Serves until the process is asked to end, on asyncio."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import grpc.aio

from grpc_idempotency._server.signals import GRACE, on_signal


async def serve(
    server: grpc.aio.Server,
    *,
    grace: timedelta = GRACE,
    before_stop: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """Starts a server, and stops it on SIGTERM or SIGINT (Ctrl-C). Returns when it has stopped.

    With ``interceptor.attach(server)`` the stop includes the drain: the operations of calls that are cut off at the end
    of ``grace`` run to their end, and their outcomes are stored. A second signal ends the process at once.

    It also returns if other code stops the server. If its task is cancelled while it serves, it stops the server first.

    Args:
        server: A server that has not been started, with its services and ports.
        grace: How long running calls have to end.
        before_stop: Awaited before the server is stopped on a signal or a cancellation, and not if other code has
            stopped it. It may tell health checks that the server does not serve any more, or end streams that would
            last for all of ``grace``. If it raises, the server is stopped all the same.

    Raises:
        ValueError: It does not run in the main thread, which alone can handle signals.
    """
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    with on_signal(lambda: loop.call_soon_threadsafe(asked.set)):
        await server.start()
        stopped = loop.create_task(server.wait_for_termination())
        signalled = loop.create_task(asked.wait())
        try:
            await asyncio.wait((stopped, signalled), return_when=asyncio.FIRST_COMPLETED)
        finally:
            signalled.cancel()
            try:
                if before_stop is not None and not stopped.done():
                    await before_stop()
            finally:
                await server.stop(grace.total_seconds())
                await stopped
