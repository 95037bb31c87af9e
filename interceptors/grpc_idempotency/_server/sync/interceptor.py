"""The interceptor for ``grpc.server``."""

import inspect
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc

from grpc_idempotency import _checks
from grpc_idempotency._jitter import uniform
from grpc_idempotency._server.clock import now
from grpc_idempotency._server.counting import COUNT_EVERY, Counting
from grpc_idempotency._server.drive import drive
from grpc_idempotency._server.execution import STOPPING
from grpc_idempotency._server.interceptor import (
    SWEEP_PAUSE,
    InterceptorBase,
    Served,
    StandIns,
    check_kind,
    method_handler,
)
from grpc_idempotency._server.recovery import EVERY, Recovery, settling
from grpc_idempotency._server.sync.attach import Attachment
from grpc_idempotency._server.sync.exchange import keyed
from grpc_idempotency._server.sync.executions import Executions
from grpc_idempotency._server.sync.keeper import Keeper, jittered
from grpc_idempotency._server.sync.pass_through import pass_through, refusing, unkeyed
from grpc_idempotency._server.workers import within
from grpc_idempotency.errors import PolicyError, StoreUnavailable
from grpc_idempotency.events import Observer
from grpc_idempotency.policy import Policy
from grpc_idempotency.principals import PrincipalFunction, mtls_or_shared
from grpc_idempotency.store import Store

logger = logging.getLogger("grpc_idempotency")

if TYPE_CHECKING:
    _Handler = grpc.RpcMethodHandler[Any, Any]


class IdempotencyInterceptor(InterceptorBase, grpc.ServerInterceptor):
    """Makes the methods of a ``grpc.server`` safe to retry.

    Put it behind (after) the interceptors that authenticate: a replay must be authorised too. Interceptors before it
    see bytes in place of messages.

    Handlers of keyed calls run in threads of the interceptor's own, which are reused. They have the context variables
    of the call's thread, but not what an initializer of the server's pool has set in the pool's threads. The call's
    thread waits for the outcome while the client is connected. A handler that runs past its execution limit can't be
    stopped: its call is answered, and its thread goes on.

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
        max_waiters: How many threads of the server duplicates may occupy while they wait. Use a quarter of its pool or
            less. Further duplicates are refused with a push-back.
        max_detached: How many detached operations there may be before new ones are refused.
        replay_cache_bytes: How many bytes of completed outcomes are kept in memory, so that their replays do not ask
            the store; 0: none.
        observers: Called with the events of this interceptor, see :mod:`grpc_idempotency.events`. They must be safe to
            call from any thread, and must not block.

    Raises:
        PolicyError: The store is not one for threads, or an argument is not allowed.
    """

    def __init__(
        self,
        store: Store,
        *,
        policy: Policy = Policy(),  # noqa: B008  # frozen
        methods: Mapping[str, Policy] | None = None,
        principal: PrincipalFunction = mtls_or_shared,
        secret: bytes | None = None,
        sweep_every: timedelta | None = timedelta(minutes=5),
        drain_limit: timedelta = timedelta(seconds=30),
        max_waiters: int = 2,
        max_detached: int = 10_000,
        replay_cache_bytes: int = 16 * 1024 * 1024,
        observers: Sequence[Observer] = (),
    ) -> None:
        if not callable(getattr(store, "open", None)) or inspect.iscoroutinefunction(store.open):
            raise PolicyError(f"{type(store).__name__} is no store of grpc_idempotency for threads, whose calls block.")
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
            awaited=False,
        )
        self._executions = Executions(
            store,
            self._store,
            self._admission.replays,
            self._observers,
            max_waiters=_checks.number("max_waiters", max_waiters),
            max_detached=_checks.number("max_detached", max_detached),
        )
        self._observers.watch(self._executions.running)
        self._pass_through = StandIns(pass_through, typed=True)
        self._keyed = StandIns(
            lambda target: keyed(target, self._admission, self._executions, unkeyed(target)), typed=False
        )
        # Each has a thread of its own, so that neither delays the other, or a limit.
        self._sweeper = Keeper("sweeps")
        self._recovering = Keeper("recovery")
        self._counter = Keeper("counts")
        self._looked_after = False
        """True once sweeps and counts have begun."""

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "_Handler | None"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "_Handler | None":
        """Wraps the handler of a call. Called by grpc, which holds the server's lock meanwhile, so it does no I/O."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        try:
            method = self._methods[handler_call_details.method]
        except PolicyError as exc:
            return method_handler(handler, refusing(exc), typed=False)
        if not self._may_be_keyed(method, handler, handler_call_details.invocation_metadata):
            return handler if method.grpcs_own else self._pass_through.of(handler, method)
        stand_in = self._keyed.of(handler, method)
        if not self._looked_after:
            self._look_after_store()
        return stand_in

    def attach(self, server: grpc.Server) -> None:
        """Attaches this interceptor to the server that it serves. Call it before services are added.

        At ``server.start()`` the policies are checked against the server's methods, the store is opened, and sweeps and
        recovery begin. Recovery holds operations whose server is gone, or runs their handlers, without the server's
        other interceptors (5.4). After ``server.stop()`` operations under way are drained and the store is closed. The
        event that ``stop`` returns, and ``wait_for_termination``, wait for that.

        Args:
            server: The server.

        Raises:
            PolicyError: The server is no ``grpc.server``.
        """
        check_kind(server, awaited=False)
        Attachment(server, at_start=self._begin, at_stop=self.close)

    def _begin(self, served: Served) -> None:
        self._check(served)
        self.open()
        self._look_after_store()
        recovery = Recovery(self._methods, served.names, served.handlers, self._observers)
        self._recovering.later(jittered(EVERY), lambda: self._recover(recovery))

    def _recover(self, recovery: Recovery) -> None:
        try:
            while self._look(recovery):
                pass
        except StoreUnavailable as exc:
            logger.warning("could not look for operations to finish: %s", exc)
        except Exception:
            logger.exception("could not look for operations to finish")
        self._recovering.later(jittered(EVERY), lambda: self._recover(recovery))

    def _look(self, recovery: Recovery) -> bool:
        """Holds, releases or runs the operations that need it.

        Returns:
            True if there may be more of them already.
        """
        found = recovery.take(self._store.pending(recovery.names, recovery.limit), self._executions.has)
        for one in found.to_run:
            self._executions.launch(one.call, one.target, one.messages, one.snapshot)
        settled = [drive(plan, settling(self._store, record, self._observers)) for record, plan in found.to_settle]
        return any(settled)

    def open(self) -> None:
        """Opens the store, so that a store which can't be used is found at start and not at the first call."""
        self._store.open()

    def close(self) -> None:
        """Drains operations under way within the drain limit, then closes the store. Call it after ``server.stop``.

        Operations that do not end in time are left as those of a dead server (4.4, 4.5). While the transaction of a
        handler does not end, the store can't be closed: that wait is within the drain limit too. If the limit is
        reached, leases and the store have one second more to end.
        """
        limit, began = self._drain_limit.total_seconds(), now()
        until = time.monotonic() + limit
        self._drained(self._executions.close(limit), began)
        if not within(max(STOPPING, until - time.monotonic()), self._end):
            logger.error("the store could not be closed within the drain limit: a transaction keeps it busy")

    def _end(self) -> None:
        self._sweeper.close()
        self._recovering.close()
        self._counter.close()
        self._executions.end()
        self._store.close()
        self._stop_observing()

    def _look_after_store(self) -> None:
        if self._looked_after:
            return
        self._looked_after = True
        if self._sweep_every is not None:
            self._sweep_later(self._sweep_every.total_seconds())
        if self._counting is not None:
            self._count_later(0.0, self._counting)

    def _count_later(self, seconds: float, counting: Counting) -> None:
        self._counter.later(seconds, lambda: self._count(counting))

    def _count(self, counting: Counting) -> None:
        completed, began = counting.begin()
        try:
            counting.end(self._store.count(completed=completed), completed=completed, began=began)
        except StoreUnavailable as exc:
            logger.debug("the records of the store could not be counted: %s", exc)
        except Exception:
            logger.exception("the records of the store could not be counted")
        self._count_later(jittered(COUNT_EVERY), counting)

    def _sweep_later(self, every: float) -> None:
        after = every * uniform(0.5, 1.0)
        self._sweeper.later(after, lambda: self._sweep(every, 0, 0, now()))

    def _sweep(self, every: float, deleted: int, freed: int, began: float) -> None:
        """Sweeps one batch. The next one comes after a pause."""
        try:
            swept = self._store.sweep()
        except Exception:
            logger.warning("a sweep failed; the next one will try again", exc_info=True)
            self._sweep_later(every)
            return
        deleted, freed = deleted + swept.deleted, freed + swept.freed_bytes
        if swept.more:
            self._sweeper.later(SWEEP_PAUSE, lambda: self._sweep(every, deleted, freed, began))
        else:
            self._swept(deleted, freed, began)
            self._sweep_later(every)
