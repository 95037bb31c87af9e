"""What ``attach`` brings to a ``grpc.aio.Server``, which gives interceptors no hook at its start or stop (8)."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc.aio

from grpc_idempotency._server.interceptor import Served


class Attachment:
    """Stands in for some methods of one server object: hears of its services, its start and its stop."""

    def __init__(
        self,
        server: grpc.aio.Server,
        *,
        at_start: Callable[[Served], Awaitable[None]],
        at_stop: Callable[[], Awaitable[None]],
        grace: float,
    ) -> None:
        """``grace``: how many seconds calls have to end where nobody said it."""
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
        """Starts the server once all that can be checked was checked."""
        await self._at_start(self._served)
        await self._start()

    async def stop(self, grace: float | None) -> None:
        """Stops the server, and then what has outlived its calls; a caller's cancellation does not cut it short."""
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

        Where the waiting is cancelled, as asyncio does on Ctrl-C, the server is stopped and drained before that goes
        on: the loop is about to end, and whatever runs in it would be cut short.
        """
        # Shielded, since gRPC's own stop fails once its waiting was cancelled.
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
