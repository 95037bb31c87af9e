"""One operation on its way through this process: what executions have in common on both kinds of server."""

import asyncio
import logging
import math
from collections.abc import Sequence
from typing import Any, Protocol

from grpc_idempotency._operation.running import Running
from grpc_idempotency._protocol.effects import (
    Call,
    Complete,
    CompleteUnclaimed,
    Conclusion,
    Effect,
    Ended,
    Event,
    Execute,
    Executed,
    Get,
    Hold,
    LeaseHolds,
    LoadSteps,
    Pause,
    Ran,
    Release,
    Released,
    Renew,
    Tell,
    TryClaim,
    Undo,
    Unwind,
    Wait,
)
from grpc_idempotency._protocol.rules import operate
from grpc_idempotency._server.clock import now
from grpc_idempotency._server.context import Snapshot
from grpc_idempotency._server.fences import new_fence
from grpc_idempotency._server.leases import Lease, Leases
from grpc_idempotency._server.replays import Replays
from grpc_idempotency._server.run import Run
from grpc_idempotency._server.target import Target
from grpc_idempotency._server.workers import Worker
from grpc_idempotency.records import Claim

logger = logging.getLogger("grpc_idempotency")

STOPPING = 1.0
"""Seconds that what was told to stop has to clean up before it counts as something that can't be stopped."""


class Register(Protocol):
    """The executions of one interceptor, as each of them knows it."""

    store: Any
    """Where the records are."""
    leases: Leases
    """Renews their leases, and minds their limits."""
    replays: Replays
    """Keeps their outcomes."""
    torn_down: bool
    """True once what still runs is being cancelled, and its records left alone."""


class ExecutionBase:
    """Performs the effects of an operation's plan on a store; on asyncio the replies are awaitables.

    Args:
        executions: The register that it is in.
        call: The call that leads it.
        target: The handler.
        messages: The request, as the handler sees it.
        snapshot: What the handler may ask of the call.
    """

    # Of the class until they are set: each first call makes an execution.
    run: Any = None
    """The run of its handler: of a stream from the beginning, else once the handler is to run."""
    conclusion: Conclusion | None = None
    """What it has concluded with."""
    early: Conclusion | None = None
    """What those were told who waited when its handler ran past its limit and could not be stopped, where the execution
    has not concluded with that: see :meth:`_stays`."""
    followers = 0
    """How many calls follow it."""
    over = False
    """True once nothing of it runs any more."""
    worker: Worker | None = None
    """The thread that is kept for its handler, until that begins."""
    _loop: asyncio.AbstractEventLoop | None = None
    """The event loop that it is in; on threads there is none."""
    _lease: Lease | None = None
    _claim: Claim | None = None
    _operation: Running | None = None
    _asked_at = 0.0
    """When the store was last asked for a claim, or whether there is a record."""
    _claiming_since = 0.0
    """When it was first asked for a claim while the handler ran."""

    def __init__(
        self,
        executions: "Register",
        call: Call,
        target: Target,
        messages: Sequence[Any],
        snapshot: Snapshot,
    ) -> None:
        self.call = call
        self._executions: Any = executions
        self._store = executions.store
        self._leases = executions.leases
        self._replays = executions.replays
        self._target = target
        self._messages = messages
        self._snapshot = snapshot
        self._plan = operate(call, new_fence())
        if target.response_streams:  # those who follow it read what the run buffers
            self.run = self.new_run()

    def perform(self, effect: Effect[Any]) -> Any:
        """What the plans of an execution may ask for; of one that was given up nothing reaches the store any more."""
        if self._executions.torn_down:
            raise asyncio.CancelledError
        store = self._store
        match effect:
            case TryClaim(claim, over):
                self._asked_at = now()
                return store.claim(claim, over=over)
            case Execute():
                return self.execute(effect)
            case Complete(name, fence, outcome, ttl):
                return store.complete(name, fence, outcome, ttl)
            case Get(name):
                self._asked_at = self._asked_at or now()
                return store.get(name)
            case CompleteUnclaimed(claim, outcome, ttl):
                assert self._lease is not None
                if self._lease.until == math.inf:  # nobody else waits for its end: it is tried as long as a lease lasts
                    self._lease.until = now() + claim.lease.total_seconds()
                return store.complete_unclaimed(claim, outcome, ttl)
            case Release(name, fence):
                return store.release(name, fence)
            case Renew(name, fence, lease):
                return store.renew(name, fence, lease)
            case Wait(name, fence, delay, tries, undo_tries):
                return store.wait(name, fence, delay, tries, undo_tries)
            case Undo(name, fence, failure):
                return store.undo(name, fence, failure)
            case LoadSteps(name):
                return store.steps(name)
            case Unwind():
                return self.unwind()
            case Hold(name, fence, reason, lapsed_only):
                self._stop_renewing()  # where the store can't be told, the lease's end holds the record all the same
                return store.hold(name, fence, reason, lapsed_only=lapsed_only)
            case LeaseHolds():
                return self._lease is not None and self._lease.holds()
            case Tell(event):
                return self._tell(event)
            case Pause(seconds):
                return self.pause(seconds)
            case _:
                raise AssertionError(f"no execution performs {effect!r}")

    def execute(self, effect: Execute) -> Any:
        """Runs the handler to its end, and answers with :class:`Ran`: the wing's."""
        raise NotImplementedError

    def unwind(self) -> Any:
        """Undoes what the operation has finished: the wing's."""
        raise NotImplementedError

    def pause(self, seconds: float) -> Any:
        """Lets time pass: the wing's."""
        raise NotImplementedError

    def new_run(self) -> Run:
        """A run of its handler: the wing's."""
        raise NotImplementedError

    def overrun(self) -> None:
        """What runs has reached its limit. Called in the thread of the leases, and must not block: the wing's."""
        raise NotImplementedError

    def _kind(self) -> type[Running]:
        """The kind of operation that its handler has: the wing's."""
        raise NotImplementedError

    def _begin(self, effect: Execute) -> Running | None:
        """The handler is about to run, from now on within its limit."""
        claim, policy = effect.claim, self.call.policy
        if self.run is None:
            self.run = self.new_run()
        lease = self._lease = Lease(
            claim if effect.claimed else None, policy.renew_every, self._asked_at, self._tell, self.overrun
        )
        lease.limit = now() + policy.execution_limit.total_seconds()
        self._leases.keep(lease)
        if claim is None:
            return None
        self._claim = claim
        operation: Running = self._kind()(
            name=claim.name,
            method=claim.method,
            fence=claim.fence,
            attempt=effect.attempt,
            principal=self.call.principal,
            store=self._store,
            ttl=policy.ttl,
            seal=self.run.seal,
            answers=self.run.answers,
            leased=lease.holds,
            finished=effect.steps,
            unwinds=effect.unwinds,
            claim=None if effect.claimed else claim,
            claiming=self._claiming,
            claimed=self._claimed,
            loop=self._loop,
        )
        self._operation = operation
        return operation

    def _claiming(self) -> None:
        """The handler has come to a step, for which the operation is about to be claimed."""
        self._claiming_since = self._claiming_since or now()

    def _claimed(self) -> None:
        """The operation is claimed while its handler runs."""
        assert self._lease is not None
        assert self._claim is not None
        self._leases.drop(self._lease)
        self._lease.granted(self._claim, self._claiming_since)
        self._leases.keep(self._lease)

    def _ran(self, ended: Ended, operation: Running | None) -> Ran:
        """The handler has ended, so that its limit has no meaning any more."""
        assert self._lease is not None
        self._lease.limit = math.inf
        if operation is None:
            return Ran(ended)
        return Ran(ended, operation.has_steps, operation.claim is None)

    def _limit_anew(self) -> None:
        """From now on an undo has as long as a handler may run."""
        assert self._lease is not None
        self._leases.drop(self._lease)
        self._lease.limit = now() + self.call.policy.execution_limit.total_seconds()
        self._leases.keep(self._lease)

    def _stays(self, conclusion: Conclusion) -> bool:
        """True if it has only answered those who wait, and has not concluded: its handler can't be stopped (4.1).

        As long as the handler runs, nothing else may run here. Where the operation is claimed, its record sees to that.
        Otherwise those who come later wait for the handler's end.
        """
        unclaimed = self._operation is not None and self._operation.claim is not None
        return unclaimed and isinstance(conclusion, Released)

    def _settled(self, conclusion: Conclusion, *, over: bool) -> None:
        """The conclusion is known: its outcome is kept for replays if it is stored, the lease unless it is ``over``."""
        if over and self._lease is not None:
            self._leases.drop(self._lease)
        if isinstance(conclusion, Executed) and conclusion.at is not None:
            call = self.call
            until = self._asked_at + call.policy.ttl.total_seconds()  # it was stored no earlier than it was claimed
            self._replays.keep(call.name, call.fingerprint.raw, conclusion.outcome, conclusion.at, until)

    def _stop_renewing(self) -> None:
        """Lets the lease run out: the operation is settled, or left as that of a dead server."""
        if self._lease is not None:
            self._leases.drop(self._lease)

    def _tell(self, event: Event) -> None:
        logger.warning(event.value, self.call.name.hex(), self.call.method)
