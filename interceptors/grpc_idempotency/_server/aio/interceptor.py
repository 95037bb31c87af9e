"""The interceptor for ``grpc.aio.server``."""

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import grpc
import grpc.aio

from grpc_idempotency import _checks
from grpc_idempotency._jitter import uniform
from grpc_idempotency._server.aio.attach import Attachment
from grpc_idempotency._server.aio.exchange import keyed
from grpc_idempotency._server.aio.executions import Executions, pause
from grpc_idempotency._server.aio.pass_through import pass_through, refusing, unkeyed
from grpc_idempotency._server.clock import now
from grpc_idempotency._server.counting import COUNT_EVERY, Counting
from grpc_idempotency._server.drive import drive_async
from grpc_idempotency._server.execution import STOPPING
from grpc_idempotency._server.interceptor import (
    SWEEP_PAUSE,
    InterceptorBase,
    Served,
    StandIns,
    check_kind,
    method_handler,
    misplaced,
)
from grpc_idempotency._server.recovery import EVERY, Recovery, settling
from grpc_idempotency.errors import PolicyError, StoreUnavailable
from grpc_idempotency.events import Observer
from grpc_idempotency.policy import Policy
from grpc_idempotency.principals import PrincipalFunction, mtls_or_shared
from grpc_idempotency.store import AsyncStore

logger = logging.getLogger("grpc_idempotency")

_GRACE = 5.0
"""Seconds that calls have to end when the server is stopped by a cancelled ``wait_for_termination``."""

if TYPE_CHECKING:
    _Handler = grpc.RpcMethodHandler[Any, Any]


class IdempotencyInterceptor(InterceptorBase, grpc.aio.ServerInterceptor):
    """Makes the methods of a ``grpc.aio.server`` safe to retry.

    Put it behind (after) the interceptors that authenticate: a replay must be authorised too. Interceptors before it
    see bytes in place of messages.

    Args:
        store: The store that keeps the records. It is opened at the first keyed call, or with :meth:`attach` at the
            server's start.
        policy: The policy of methods that ``methods`` does not name.
        methods: Policies by full method name, ``/package.Service/Method``, or by a glob of that form. An exact name
            has precedence over a glob, and an earlier glob over a later one.
        principal: Returns the principal to whom a call's key belongs (3.1).
        secret: Makes the stored names and fingerprints HMACs under this secret, so that a reader of the store can't
            brute-force keys; 16 bytes or more. Every process on the store needs the same one. A request with its key in
            ``request_id`` is then not stored, so that only a retry finishes its operation, and recovery does not.
        sweep_every: The interval between sweeps, which delete expired records; ``None``: this process does not sweep.
        drain_limit: How long :meth:`close` waits for detached operations: those for which no call waits any more.
        max_detached: How many detached operations there may be before new ones are refused.
        replay_cache_bytes: How many bytes of completed outcomes are kept in memory, so that their replays do not ask
            the store; 0: none.
        observers: Called with the events of this interceptor, see :mod:`grpc_idempotency.events`. They must be safe to
            call from any thread, and must not block.

    Raises:
        PolicyError: The store is not one for asyncio, or an argument is not allowed.
    """

    def __init__(
        self,
        store: AsyncStore,
        *,
        policy: Policy = Policy(),  # noqa: B008  # frozen
        methods: Mapping[str, Policy] | None = None,
        principal: PrincipalFunction = mtls_or_shared,
        secret: bytes | None = None,
        sweep_every: timedelta | None = timedelta(minutes=5),
        drain_limit: timedelta = timedelta(seconds=30),
        max_detached: int = 10_000,
        replay_cache_bytes: int = 16 * 1024 * 1024,
        observers: Sequence[Observer] = (),
    ) -> None:
        if not inspect.iscoroutinefunction(getattr(store, "open", None)):
            raise PolicyError(f"{type(store).__name__} is no store of grpc_idempotency.aio, whose calls are awaited.")
        super().__init__(
            store,
            policy=policy,
            methods=methods,
            principal=principal,
            secret=secret,
            sweep_every=sweep_every,
            drain_limit=drain_limit,
            replay_cache_bytes=replay_cache_bytes,
            observers=observers,
            awaited=True,
        )
        self._executions = Executions(
            store,
            self._store,
            self._admission.replays,
            self._observers,
            max_detached=_checks.number("max_detached", max_detached),
        )
        self._observers.watch(self._executions.running)
        self._pass_through = StandIns(pass_through, typed=True)
        self._keyed = StandIns(
            lambda target: keyed(target, self._admission, self._executions, unkeyed(target, self._executions.workers)),
            typed=False,
        )
        self._sweeper: asyncio.Task[None] | None = None
        self._counter: asyncio.Task[None] | None = None
        self._recovery: Recovery | None = None
        self._recovering: asyncio.Task[None] | None = None
        self._unattended = True
        """True if a task for sweeps, counts or recovery may have to be started."""
        self._closed = False

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["_Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Coroutine[Any, Any, "_Handler | None"]:
        """Wraps the handler of a call. Called by grpc. Does no I/O."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            found: Any = continuation(handler_call_details)  # a grpc.server has called this, which awaits nothing
            return cast("Coroutine[Any, Any, None]", None if found is None else misplaced(found))
        return self._intercept(continuation, handler_call_details)

    async def _intercept(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["_Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "_Handler | None":
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        try:
            method = self._methods[handler_call_details.method]
        except PolicyError as exc:
            return method_handler(handler, refusing(exc), typed=False)
        if not self._may_be_keyed(method, handler, handler_call_details.invocation_metadata):
            return handler if method.grpcs_own else self._pass_through.of(handler, method)
        stand_in = self._keyed.of(handler, method)
        if self._unattended:
            self._look_after_store()
        return stand_in

    def attach(self, server: grpc.aio.Server) -> None:
        """Attaches this interceptor to the server that it serves. Call it before services are added.

        At ``server.start()`` the policies are checked against the server's methods, the store is opened, and sweeps and
        recovery begin. Recovery holds operations whose server is gone, or runs their handlers, without the server's
        other interceptors (5.4). After ``server.stop()`` operations under way are drained and the store is closed, and
        ``wait_for_termination`` waits for that. A ``wait_for_termination`` that is cancelled, as on Ctrl-C, stops and
        drains the server, too.

        Args:
            server: The server.

        Raises:
            PolicyError: The server is no ``grpc.aio.server``.
        """
        check_kind(server, awaited=True)
        Attachment(
            server, at_start=self._begin, at_stop=self.close, grace=min(self._drain_limit.total_seconds(), _GRACE)
        )

    async def _begin(self, served: Served) -> None:
        self._check(served)
        await self.open()
        self._recovery = Recovery(self._methods, served.names, served.handlers, self._observers)
        self._look_after_store()

    async def _recover(self, recovery: Recovery) -> None:
        while True:
            await pause(EVERY)
            try:
                while await self._look(recovery):
                    pass
            except StoreUnavailable as exc:
                logger.warning("could not look for operations to finish: %s", exc)
            except Exception:
                logger.exception("could not look for operations to finish")

    async def _look(self, recovery: Recovery) -> bool:
        """Holds, releases or runs the operations that need it.

        Returns:
            True if there may be more of them already.
        """
        found = recovery.take(await self._store.pending(recovery.names, recovery.limit), self._executions.has)
        for one in found.to_run:
            self._executions.join(one.call, one.target, one.messages, one.snapshot)
        settled = [
            await drive_async(plan, settling(self._store, record, self._observers)) for record, plan in found.to_settle
        ]
        return any(settled)

    async def _count(self, counting: Counting) -> None:
        while True:
            completed, began = counting.begin()
            try:
                counts = await self._store.count(completed=completed)
                counting.end(counts, completed=completed, began=began)
            except StoreUnavailable as exc:
                logger.debug("the records of the store could not be counted: %s", exc)
            except Exception:
                logger.exception("the records of the store could not be counted")
            await pause(COUNT_EVERY)

    async def open(self) -> None:
        """Opens the store, so that a store which can't be used is found at start and not at the first call."""
        await self._store.open()

    async def close(self) -> None:
        """Drains operations under way within the drain limit, then closes the store. Call it after ``server.stop``.

        Operations that do not end in time are left as those of a dead server (4.4, 4.5). While the transaction of a
        handler does not end, the store can't be closed: that wait is within the drain limit too. If the limit is
        reached, cancelled work, leases and the store have one second each to end, so this takes up to three more.
        """
        limit, began = self._drain_limit.total_seconds(), now()
        until = time.monotonic() + limit
        self._closed = True
        await _ended(self._recovering)
        self._drained(await self._executions.close(limit), began)
        await _ended(self._sweeper)
        await _ended(self._counter)
        closing = asyncio.ensure_future(self._store.close())
        await asyncio.wait((closing,), timeout=max(STOPPING, until - time.monotonic()))
        self._stop_observing()
        if closing.done():
            closing.result()
        else:
            logger.error("the store could not be closed within the drain limit: a transaction keeps it busy")

    def _look_after_store(self) -> None:
        """Starts the tasks for sweeps, counts and recovery. Starts them again if they were cancelled."""
        self._unattended = False
        if self._closed:
            return
        if self._sweep_every is not None and (self._sweeper is None or self._sweeper.done()):
            self._sweeper = self._attend(self._sweep(self._sweep_every.total_seconds()))
        if self._counting is not None and (self._counter is None or self._counter.done()):
            self._counter = self._attend(self._count(self._counting))
        if self._recovery is not None and (self._recovering is None or self._recovering.done()):
            self._recovering = self._attend(self._recover(self._recovery))

    def _attend(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._left)
        return task

    def _left(self, _task: "asyncio.Task[None]") -> None:
        self._unattended = True

    async def _sweep(self, every: float) -> None:
        while True:
            await asyncio.sleep(every * uniform(0.5, 1.0))
            try:
                await self._sweep_once()
            except Exception:
                logger.warning("a sweep failed; the next one will try again", exc_info=True)

    async def _sweep_once(self) -> None:
        deleted, freed, began = 0, 0, now()
        more = True
        while more:
            swept = await self._store.sweep()
            deleted, freed, more = deleted + swept.deleted, freed + swept.freed_bytes, swept.more
            await asyncio.sleep(SWEEP_PAUSE)
        self._swept(deleted, freed, began)


async def _ended(task: "asyncio.Task[None] | None") -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
