"""One operation on its way through this process: what flights have in common on both kinds of server."""

import logging
import secrets
from typing import Any

from grpc_idempotency._operation.running import Running
from grpc_idempotency._operation.steps import Steps
from grpc_idempotency._protocol.effects import (
    Call,
    Complete,
    Effect,
    Event,
    Execute,
    Executed,
    Get,
    Hold,
    Landing,
    LeaseHolds,
    LoadSteps,
    NewFence,
    Pause,
    Release,
    Renew,
    Tell,
    TryClaim,
    Undo,
    Unwind,
    Wait,
)
from grpc_idempotency._server.clock import now
from grpc_idempotency._server.leases import Lease, Leases
from grpc_idempotency._server.replays import Replays
from grpc_idempotency._server.run import Run
from grpc_idempotency.records import Claim

logger = logging.getLogger("grpc_idempotency")

STOPPING = 1.0
"""Seconds that what was told to stop has to clean up before it counts as something that can't be stopped."""


class FlightBase:
    """Performs the effects of an operation's plan on a store; on asyncio the replies are awaitables."""

    def __init__(self, store: Any, leases: Leases, replays: Replays, call: Call, run: Run) -> None:
        self.call = call
        self.run = run
        self._store = store
        self._leases = leases
        self._replays = replays
        self._lease: Lease | None = None
        self._claim: Claim | None = None
        self._operation: Running | None = None
        self._asked_at = 0.0
        """When the store was last asked for a claim."""

    def perform(self, effect: Effect[Any]) -> Any:
        """What the plans of a flight may ask for."""
        store = self._store
        match effect:
            case NewFence():
                return secrets.token_bytes(16)
            case TryClaim(claim, over):
                self._asked_at = now()
                return store.claim(claim, over=over)
            case Execute(claim, attempt, steps, unwinds):
                return self.execute(self._begin(claim, attempt, Steps(steps, unwinds=unwinds)))
            case Complete(name, fence, outcome, ttl):
                return store.complete(name, fence, outcome, ttl)
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
            case Get(name):
                return store.get(name)
            case LeaseHolds():
                return self.lease_holds()
            case Tell(event):
                return self._tell(event)
            case Pause(seconds):
                return self.pause(seconds)
            case _:
                raise AssertionError(f"no flight performs {effect!r}")

    def execute(self, operation: Running | None) -> Any:
        """Runs the handler to its end: the shell's."""
        raise NotImplementedError

    def unwind(self) -> Any:
        """Undoes what the operation has finished: the shell's."""
        raise NotImplementedError

    def pause(self, seconds: float) -> Any:
        """Lets time pass: the shell's."""
        raise NotImplementedError

    def _begin(self, claim: Claim | None, attempt: int, steps: Steps) -> Running | None:
        if claim is None:
            return None
        self._claim = claim
        self._lease = Lease(claim, self.call.policy.renew_every, self._asked_at, self._tell)
        self._leases.keep(self._lease)
        self._operation = self.run.operation(
            name=claim.name,
            method=claim.method,
            fence=claim.fence,
            attempt=attempt,
            principal=self.call.principal,
            store=self._store,
            ttl=self.call.policy.ttl,
            steps=steps,
            seal=self.run.seal,
            answers=self.run.answers,
            leased=self._lease.holds,
        )
        return self._operation

    def lease_holds(self) -> bool:
        """Whether no other run of the operation can have begun: whether this one may begin a step or an undo (4.9)."""
        return self._lease is not None and self._lease.holds()

    def _keep(self, landing: Landing) -> None:
        """Keeps the outcome for replays, where it is stored."""
        if isinstance(landing, Executed) and landing.at is not None:
            call = self.call
            until = self._asked_at + call.policy.ttl.total_seconds()  # it was stored no earlier than it was claimed
            self._replays.keep(call.name, call.fingerprint.raw, landing.outcome, landing.at, until)

    def _stop_renewing(self) -> None:
        """Lets the lease run out: the operation is settled, or left as that of a dead server."""
        if self._lease is not None:
            self._leases.drop(self._lease)

    def _tell(self, event: Event) -> None:
        logger.warning(event.value, self.call.name.hex(), self.call.method)
