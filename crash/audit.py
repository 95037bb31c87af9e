"""A layer over the servers' store: an audit, and the points at which servers die. The library does not depend on it."""

from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from crash.files import Journal
from crash.misuse import Misuse
from crash.points import Point
from grpc_idempotency import Database, FenceRefused, TransactionMisuse
from grpc_idempotency._operation.running import Running
from grpc_idempotency.records import Claim, Outcome, Record, Renewal, Step
from grpc_idempotency.stores._calls.aio import AsyncCalls, AsyncTransactionalCalls
from grpc_idempotency.transactions import running_operation
from shop.errors import Reason, Refused

T = TypeVar("T")
UNDO = "undo:"


class Audit(AsyncCalls):
    """The calls of any real store, with an audit."""

    journal: Journal
    point: Point
    misuse: Misuse

    async def claim(self, claim: Claim, *, over: bytes | None = None) -> Record | None:
        asked = self.journal.now()
        record = await super().claim(claim, over=over)
        if record is None:
            operation: Any = running_operation()
            late = operation is not None and operation.fence == claim.fence  # its handler has reached a step
            taken = over.hex() if over else None
            claimed = {"method": claim.method, "effects": claim.effects.value, "over": taken, "late": late}
            self._note("claim", claim.name, claim.fence, asked=asked, **claimed)
            self.point.reach("after-claim")
        return record

    async def get(self, name: bytes) -> Record | None:
        record = await super().get(name)
        if record is None:  # most likely, an operation that is not claimed will run next
            self.point.reach("after-look")
        return record

    async def renew(self, name: bytes, fence: bytes, lease: timedelta) -> Renewal:
        asked = self.journal.now()
        renewal = await super().renew(name, fence, lease)
        if renewal is Renewal.RENEWED:
            self._note("renew", name, fence, asked=asked)
        return renewal

    async def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> datetime | None:
        self.point.reach("before-completion")
        completed = await super().complete(name, fence, outcome, ttl)
        if completed:
            self._note("done", name, fence, status=int(outcome.status))
            self.point.reach("after-completion")
        return completed

    async def release(self, name: bytes, fence: bytes, *, lapsed_only: bool = False) -> bool:
        released = await super().release(name, fence, lapsed_only=lapsed_only)
        if released:
            self._note("release", name, fence, lapsed=lapsed_only)
        return released

    async def wait(self, name: bytes, fence: bytes, delay: timedelta, failed_runs: int, failed_undos: int) -> bool:
        waits = await super().wait(name, fence, delay, failed_runs, failed_undos)
        if waits:
            self._note("wait", name, fence)
        return waits

    async def hold(self, name: bytes, fence: bytes, reason: str, *, lapsed_only: bool = False) -> bool:
        held = await super().hold(name, fence, reason, lapsed_only=lapsed_only)
        if held:
            self._note("hold", name, fence)
        return held

    async def record_step(self, name: bytes, fence: bytes, step: Step) -> bool:
        undoes = step.name.startswith(UNDO)
        self.point.reach("in-undo" if undoes else "in-step")
        asked = self.journal.now()
        kept = await super().record_step(name, fence, step)
        if kept:
            self._note("step", name, fence, step=step.name, asked=asked)
            self.point.reach("after-undo" if undoes else "between-steps")
        return kept

    def _note(self, event: str, name: bytes, fence: bytes, **more: object) -> None:
        self.journal.write(event, name=name.hex(), fence=fence.hex(), **more)


class TransactionAudit(Audit, AsyncTransactionalCalls):
    """The same for a store with transactions."""

    def transaction(
        self, fn: Callable[[Database], T], *, step: Callable[[T], Step] | None = None
    ) -> Coroutine[Any, Any, T]:
        operation: Any = running_operation()
        if operation is None:
            return super().transaction(fn, step=step)
        loses = self.misuse.transacts_badly(operation)
        if loses:
            fn = self.misuse.swallowing(fn)
        # As in the library, the caller's operation is read when this is called, and not when it is awaited.
        if step is None:
            told = self._replied(operation, super().transaction(self._watched(fn)))
        else:
            kept = _Kept(self, step)
            told = self._stepped(operation, kept, super().transaction(fn, step=kept))
        return self._lost(operation, told) if loses else told

    def _watched(self, fn: Callable[[Database], T]) -> Callable[[Database], T]:
        def within(db: Database) -> T:
            reply = fn(db)
            self.point.reach("in-transaction")
            return reply

        return within

    async def _replied(self, operation: Running, committing: Coroutine[Any, Any, T]) -> T:
        try:
            reply = await committing
        except FenceRefused:
            self._note("refused", operation.name, operation.fence)
            raise
        self._note("done", operation.name, operation.fence, status=0)
        self.point.reach("after-commit")
        return reply

    async def _stepped(self, operation: Running, kept: "_Kept[T]", committing: Coroutine[Any, Any, T]) -> T:
        reply = await committing
        self._note("step", operation.name, operation.fence, step=kept.name, asked=kept.asked)
        self.point.reach("after-undo" if kept.undoes else "between-steps")
        return reply

    async def _lost(self, operation: Running, committing: Coroutine[Any, Any, T]) -> T:
        """Refuses a call whose transaction was rolled back, so that it is tried again: nothing has happened."""
        try:
            return await committing
        except TransactionMisuse:
            self.misuse.note("swallowed", operation)
            raise Refused(Reason.STOPPING) from None


class _Kept(Generic[T]):
    """Makes the step that is stored with a transaction's rows."""

    def __init__(self, store: TransactionAudit, make: Callable[[T], Step]) -> None:
        self._store = store
        self._make = make
        self.name = ""
        self.asked = 0.0

    @property
    def undoes(self) -> bool:
        return self.name.startswith(UNDO)

    def __call__(self, reply: T) -> Step:
        made = self._make(reply)
        self.name = made.name
        self._store.point.reach("in-undo" if self.undoes else "in-step")
        self.asked = self._store.journal.now()
        return made
