"""The part of an execution that both wings share."""

import asyncio
import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

from grpc_idempotency._operation.running import Running
from grpc_idempotency._protocol.effects import (
    BeginLease,
    Call,
    Complete,
    CompleteUnclaimed,
    Conclusion,
    Effect,
    Ended,
    Execute,
    Executed,
    Get,
    Hold,
    LeaseHolds,
    LoadSteps,
    Pause,
    Ran,
    Release,
    Renew,
    Tell,
    Told,
    TryClaim,
    Undo,
    Unwind,
    Wait,
)
from grpc_idempotency._protocol.rules import operate
from grpc_idempotency._server import telling
from grpc_idempotency._server.clock import now
from grpc_idempotency._server.context import Snapshot
from grpc_idempotency._server.leases import Lease, Leases
from grpc_idempotency._server.observers import Observers
from grpc_idempotency._server.replays import Replays
from grpc_idempotency._server.run import Run
from grpc_idempotency._server.target import Target
from grpc_idempotency._server.workers import Worker
from grpc_idempotency.records import Claim

logger = logging.getLogger("grpc_idempotency")

_FENCES_DRAWN = 256
"""How many fences are drawn at once: a system call lets other threads run before it returns."""

_fences: list[bytes] = []
"""Fences that no claim has had. Appending and popping are atomic."""

STOPPING = 1.0
"""Seconds that cancelled work has to clean up, before it counts as work that can't be stopped."""


class Register(Protocol):
    """The executions of one interceptor, as each of them sees it."""

    own_store: Any
    """The store that has the records."""
    store: Any
    """The same store, with calls that observers are told of."""
    leases: Leases
    """Renews the leases, and watches the execution limits."""
    replays: Replays
    """Keeps the outcomes in memory."""
    observers: Observers
    """Those who are told what happens."""
    torn_down: bool
    """True once the remaining executions are being cancelled. Their records are left as they are."""


class ExecutionBase:
    """Performs the effects of an operation's plan on a store. On asyncio the replies are awaitables.

    Args:
        executions: The register of the execution.
        call: The call that leads it.
        target: The handler.
        messages: The request messages, as the handler sees them.
        snapshot: The values of the call that the handler may ask for.
    """

    # Class attributes until they are set: each call that leads makes an execution.
    run: Any = None
    """The run of its handler: made at once for a stream, else when the handler is about to run."""
    conclusion: Conclusion | None = None
    """Its conclusion, once it has concluded."""
    early: Conclusion | None = None
    """The conclusion that waiting calls were told when the handler ran past its limit and could not be stopped.

    Set only if the execution has not concluded with that: see :func:`~grpc_idempotency._protocol.rules.is_only_told`.
    """
    followers = 0
    """How many calls follow it, the one that leads included."""
    ended = False
    """True once it has ended: nothing of it runs any more."""
    running = False
    """True while its handler runs."""
    worker: Worker | None = None
    """The thread that is kept for its handler until the handler begins."""
    _loop: asyncio.AbstractEventLoop | None = None
    """Its event loop; ``None`` on threads."""
    _lease: Lease | None = None
    _claim: Claim | None = None
    _operation: Running | None = None
    _asked_at = 0.0
    """When the store was last asked for a claim, or for the record."""
    _claiming_since = 0.0
    """When the store was first asked for a claim while the handler ran."""
    _attempt = 1
    """The number of the claim under which its handler runs, if an observer wants to know of its end."""
    _began_at = 0.0
    """When its handler began, if an observer wants to know of its end."""

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
        self._observers = executions.observers
        self._target = target
        self._messages = messages
        self._snapshot = snapshot
        self._plan = operate(call, new_fence())
        if target.response_streams:  # its followers read the run's buffer
            self.run = self.new_run()

    def perform(self, effect: Effect[Any]) -> Any:
        """Performs an effect of an execution's plans. Once the executions are torn down, nothing reaches the store."""
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
                return store.complete_unclaimed(claim, outcome, ttl)
            case Release(name, fence):
                return store.release(name, fence)
            case Renew(name, fence, lease):
                return store.renew(name, fence, lease)
            case Wait(name, fence, delay, failed_runs, failed_undos):
                return store.wait(name, fence, delay, failed_runs, failed_undos)
            case Undo(name, fence, failure):
                return store.undo(name, fence, failure)
            case LoadSteps(name):
                return store.steps(name)
            case Unwind():
                return self.unwind()
            case Hold(name, fence, reason, lapsed_only):
                self._stop_renewing()  # if the store does not answer, the record is held when the lease has run out
                return store.hold(name, fence, reason, lapsed_only=lapsed_only)
            case BeginLease(lease):
                assert self._lease is not None
                self._lease.until = now() + lease.total_seconds()
                return None
            case LeaseHolds():
                return self._lease is not None and self._lease.holds()
            case Tell():
                return telling.tell(self._observers, self.call, effect, ran=self._lease is not None)
            case Pause(seconds):
                return self.pause(seconds)
            case _:
                raise AssertionError(f"no execution performs {effect!r}")

    def execute(self, effect: Execute) -> Any:
        """Runs the handler to its end, and returns a :class:`Ran`. Implemented by each wing."""
        raise NotImplementedError

    def unwind(self) -> Any:
        """Undoes the finished steps. Implemented by each wing."""
        raise NotImplementedError

    def pause(self, seconds: float) -> Any:
        """Waits for about ``seconds``. Implemented by each wing."""
        raise NotImplementedError

    def new_run(self) -> Run:
        """Returns a run of its handler. Implemented by each wing."""
        raise NotImplementedError

    def overrun(self) -> None:
        """Stops a handler or an undo that has reached its limit, or gives it up. Implemented by each wing.

        Called in the thread of the leases, so it must not block.
        """
        raise NotImplementedError

    def _begin(self, effect: Execute, kind: type[Running]) -> Running | None:
        """Prepares to run the handler, and starts its execution limit.

        Args:
            effect: How the handler is to run.
            kind: The class of its operation.

        Returns:
            The handler's operation; ``None`` if it runs as if the call had no key.
        """
        claim, policy = effect.claim, self.call.policy
        lease = self._lease = Lease(
            claim if effect.claimed else None, policy.renew_every, self._asked_at, self._lease_lost, self.overrun
        )
        began = now()
        lease.limit = began + policy.execution_limit.total_seconds()
        self._leases.keep(lease)
        self.running = True
        observers = self._observers
        if observers.claimed is not None and claim is not None and effect.claimed and effect.attempt == 1:
            telling.claimed(observers, self.call)  # of a later claim the plan tells
        recovers = self.call.lapsed is not None
        if (observers.recovery_started if recovers else observers.execution_started) is not None:
            telling.started(observers, self.call, effect.attempt)
        if observers.recovery_ended is not None:
            self._attempt, self._began_at = effect.attempt, began
        if claim is None:
            return None
        self._claim = claim
        operation: Running = kind(
            name=claim.name,
            method=claim.method,
            fence=claim.fence,
            attempt=effect.attempt,
            principal=self.call.principal,
            store=self._executions.own_store,
            calls=self._store,
            ttl=policy.ttl,
            make_outcome=self.run.make_outcome,
            accepts=self.run.accepts,
            leased=lease.holds,
            finished=effect.steps,
            unwinds=effect.unwinds,
            claim=None if effect.claimed else claim,
            claiming=self._claiming,
            claimed=self._claimed,
            recorded=self._recorded if observers.step_finished or observers.step_undone else None,
            loop=self._loop,
        )
        self._operation = operation
        return operation

    def _claiming(self) -> None:
        """Notes that the handler has come to a step, for which the operation is about to be claimed."""
        self._claiming_since = self._claiming_since or now()

    def _claimed(self) -> None:
        """Notes that the operation was claimed while its handler runs, and begins to renew its lease."""
        assert self._lease is not None
        assert self._claim is not None
        self._leases.drop(self._lease)
        self._lease.granted(self._claim, self._claiming_since)
        self._leases.keep(self._lease)
        if self._observers.claimed is not None:
            telling.claimed(self._observers, self.call)

    def _ran(self, ended: Ended, operation: Running | None) -> Ran:
        """Ends the handler's limit, when the handler has ended, and returns how it ended."""
        assert self._lease is not None
        self._lease.limit = math.inf
        self.running = False
        if self._observers.recovery_ended is not None:
            telling.ended(self._observers, self.call, self._attempt, ended, now() - self._began_at)
        if operation is None:
            return Ran(ended)
        return Ran(ended, operation.has_steps, operation.claim is None, operation.unconfirmed is not None)

    def _stopped(self) -> None:
        """Notes that the handler has ended because the executions are torn down."""
        self.running = False
        if self._observers.recovery_ended is not None:
            telling.ended(self._observers, self.call, self._attempt, None, now() - self._began_at)

    def _limit_anew(self) -> None:
        """Starts the limit for the undos, which is the same as the handler's."""
        assert self._lease is not None
        self._leases.drop(self._lease)
        self._lease.limit = now() + self.call.policy.execution_limit.total_seconds()
        self._leases.keep(self._lease)

    @property
    def _has_record(self) -> bool:
        """False if its handler runs without a claim, so that the store has no record of the operation yet."""
        return self._operation is None or self._operation.claim is None

    def _settled(self, conclusion: Conclusion, *, ended: bool) -> None:
        """Keeps the outcome in memory for replays, if it is stored whole.

        Args:
            conclusion: The conclusion of the execution.
            ended: True if the execution has ended, so that its lease is not renewed any more.
        """
        if ended and self._lease is not None:
            self._leases.drop(self._lease)
            if self._observers.settled is not None:
                telling.settled(self._observers, self.call, conclusion)
        if isinstance(conclusion, Executed) and conclusion.at is not None:
            call = self.call
            until = self._asked_at + call.policy.ttl.total_seconds()  # it was stored no earlier than it was claimed
            self._replays.keep(call.name, call.fingerprint.raw, conclusion.outcome, conclusion.at, until, call.trace)

    def _stop_renewing(self) -> None:
        """Lets the lease run out: the operation is settled, or its record is left as that of a dead server."""
        if self._lease is not None:
            self._leases.drop(self._lease)

    def _lease_lost(self, told: Told) -> None:
        telling.lease_lost(self._observers, self.call, told)

    def _recorded(self, name: str) -> None:
        telling.recorded(self._observers, self.call, name)


def count_running(*executions: Iterable[ExecutionBase]) -> Mapping[str, int]:
    """Returns how many handlers run, by their methods.

    Args:
        executions: Executions. One that is among them twice counts once.
    """
    return Counter(one.call.method for one in set(chain(*executions)) if one.running)


def new_fence() -> bytes:
    """Returns a fence: 16 random bytes, which no other claim has ever had or will have (4.2)."""
    try:
        return _fences.pop()
    except IndexError:
        drawn = os.urandom(16 * _FENCES_DRAWN)
        _fences.extend([drawn[at : at + 16] for at in range(16, len(drawn), 16)])
        return drawn[:16]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fences.clear)  # the parent process will use these
