"""One operation on its way through this process: what flights have in common on both kinds of server."""

import logging
import secrets
import time
from typing import Any

from grpc_idempotency._effects import (
    Call,
    Complete,
    Effect,
    Execute,
    Get,
    Hold,
    LeaseHolds,
    LoadSteps,
    NewFence,
    Pause,
    RecordStep,
    Release,
    Renew,
    Renewed,
    Tell,
    TryClaim,
    Unwind,
    Wait,
)
from grpc_idempotency._run import Run
from grpc_idempotency._steps import Steps
from grpc_idempotency.operation import OperationBase
from grpc_idempotency.records import Claim

logger = logging.getLogger("grpc_idempotency")

STOPPING = 1.0
"""Seconds that what was told to stop has to clean up before it counts as something that can't be stopped."""


class FlightBase:
    """Performs the effects of an operation's plan on a store; on asyncio the replies are awaitables."""

    def __init__(self, store: Any, call: Call, run: Run) -> None:
        self.call = call
        self.run = run
        self._store = store
        self._claim: Claim | None = None
        self._operation: OperationBase | None = None
        self._asked_at = 0.0
        """When the store was last asked for a lease: it began no earlier, so that it ends no earlier than we think."""
        self._lease_until = 0.0

    def perform(self, effect: Effect[Any]) -> Any:
        """What the plans of a flight may ask for."""
        store = self._store
        match effect:
            case NewFence():
                return secrets.token_bytes(16)
            case TryClaim(claim, over):
                self._asked_at = time.monotonic()
                return store.claim(claim, over=over)
            case Execute(claim, attempt, steps, unwinds):
                return self.execute(self._begin(claim, attempt, Steps(steps, unwinds=unwinds)))
            case Complete(name, fence, outcome, ttl):
                return store.complete(name, fence, outcome, ttl)
            case Release(name, fence):
                return store.release(name, fence)
            case Renew(name, fence, lease):
                self._asked_at = time.monotonic()
                return store.renew(name, fence, lease)
            case Wait(name, fence, delay, tries):
                return store.wait(name, fence, delay, tries)
            case RecordStep(name, fence, step):
                return store.record_step(name, fence, step)
            case LoadSteps(name):
                return store.steps(name)
            case Unwind():
                return self.unwind()
            case Renewed():
                return self._lease_began()
            case Hold(name, fence, reason, lapsed_only):
                return store.hold(name, fence, reason, lapsed_only=lapsed_only)
            case Get(name):
                return store.get(name)
            case LeaseHolds():
                return self._leased()
            case Tell(event):
                return logger.warning(event.value, self.call.name.hex(), self.call.method)
            case Pause(seconds):
                return self.pause(seconds)
            case _:
                raise AssertionError(f"no flight performs {effect!r}")

    def execute(self, operation: OperationBase | None) -> Any:
        """Runs the handler to its end: the shell's."""
        raise NotImplementedError

    def unwind(self) -> Any:
        """Undoes what the operation has finished: the shell's."""
        raise NotImplementedError

    def pause(self, seconds: float) -> Any:
        """Lets time pass: the shell's."""
        raise NotImplementedError

    def _begin(self, claim: Claim | None, attempt: int, steps: Steps) -> OperationBase | None:
        if claim is None:
            return None
        self._claim = claim
        self._lease_began()
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
            leased=self._leased,
        )
        return self._operation

    def _leased(self) -> bool:
        """Whether no other run can have begun."""
        return time.monotonic() < self._lease_until

    def _lease_began(self) -> None:
        self._lease_until = self._asked_at + self.call.policy.lease.total_seconds()
