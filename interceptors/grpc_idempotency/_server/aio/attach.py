"""Hooks for the start and stop of a ``grpc.aio.Server``, which gives interceptors none (8)."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc.aio

from grpc_idempotency._server.interceptor import Served


class Attachment:
    """Replaces some methods of one server object, to learn of its services, its start and its stop."""

    def __init__(
        self,
        server: grpc.aio.Server,
        *,
        at_start: Callable[[Served], Awaitable[None]],
        at_stop: Callable[[], Awaitable[None]],
        grace: float,
    ) -> None:
        """Replaces the methods of the server.

        Args:
            server: The server.
            at_start: Called with the methods of the server before it starts.
            at_stop: Called when the server has stopped.
            grace: The seconds that calls have to end when a cancelled ``wait_for_termination`` stops the server.
        """
        self._at_start = at_start
        self._at_stop = at_stop
        self._grace = grace
        self._served = Served()
        self._stopping: asyncio.Task[None] | None = None
        self._add_generic = server.add_generic_rpc_handlers
        self._start, self._stop, self._wait = server.start, server.stop, server.wait_for_termination
        for name in ("add_generic_rpc_handlers", "start", "stop", "wait_for_termination"):
            setattr(server, name, getattr(self, name))

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[Any]) -> None:
        """Notes the methods, and adds them."""
        handlers = tuple(generic_rpc_handlers)
        self._served.add(handlers)
        self._add_generic(handlers)

    async def start(self) -> None:
        """Calls ``at_start``, which makes all checks, and then starts the server."""
        await self._at_start(self._served)
        await self._start()

    async def stop(self, grace: float | None) -> None:
        """Stops the server, and then drains its operations. A cancellation of the caller does not cut this short.

        Args:
            grace: The seconds that calls have to end; ``None``: they end at once.
        """
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop_all(grace))
        elif grace is None or grace == 0:
            await self._stop(grace)  # a second, more urgent stop
        await asyncio.shield(self._stopping)

    async def _stop_all(self, grace: float | None) -> None:
        await self._stop(grace)
        await self._at_stop()

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Waits until the server has stopped and its operations are drained.

        If this is cancelled, as asyncio does on Ctrl-C, the server is stopped and drained before the cancellation is
        raised: the loop is about to end, and would cut short what runs in it.

        Args:
            timeout: The longest time to wait, in seconds; ``None``: no limit.

        Returns:
            True if the time was up first.
        """
        # Shielded, since gRPC's own stop fails once its wait was cancelled.
        waiting = asyncio.ensure_future(self._wait(timeout))
        try:
            timed_out = await asyncio.shield(waiting)
        except asyncio.CancelledError:
            await self.stop(self._grace)
            await waiting
            raise
        if not timed_out and self._stopping is not None:
            await asyncio.shield(self._stopping)
        return timed_out
