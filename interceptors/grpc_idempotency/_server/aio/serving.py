"""Serves until the process is asked to end, on asyncio."""

import asyncio
from datetime import timedelta

import grpc.aio

from grpc_idempotency._server.signals import GRACE, on_signal


async def serve(server: grpc.aio.Server, *, grace: timedelta = GRACE) -> None:
    """Starts a server, and stops it on SIGTERM or SIGINT (Ctrl-C). Returns when it has stopped.

    With ``interceptor.attach(server)`` the stop includes the drain: the operations of calls that are cut off at the end
    of ``grace`` run to their end, and their outcomes are stored. A second signal ends the process at once.

    It also returns if other code stops the server. If its task is cancelled while it serves, it stops the server first.

    Args:
        server: A server that has not been started, with its services and ports.
        grace: How long running calls have to end.

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
            await server.stop(grace.total_seconds())
            await stopped
