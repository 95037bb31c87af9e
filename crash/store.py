"""The servers' store, with an audit of what is done to it and the points to die at. The library knows nothing of it."""

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from crash.files import Journal
from crash.points import Point
from grpc_idempotency import Database
from grpc_idempotency.aio import SQLiteStore, current_operation
from grpc_idempotency.records import Claim, Outcome, Record, Step

T = TypeVar("T")
UNDO = "undo:"


class LabStore(SQLiteStore):
    """Real in all that it does; the faults are on top of it."""

    journal: Journal
    point: Point

    async def claim(self, claim: Claim, *, over: bytes | None = None) -> Record | None:
        asked = self.journal.now()
        record = await super().claim(claim, over=over)
        if record is None:
            self._note(
                "claim", claim.name, claim.fence, method=claim.method, asked=asked, over=over.hex() if over else None
            )
            self.point.reach("after-claim")
        return record

    async def renew(self, name: bytes, fence: bytes, lease: timedelta) -> bool:
        asked = self.journal.now()
        renewed = await super().renew(name, fence, lease)
        if renewed:
            self._note("renew", name, fence, asked=asked)
        return renewed

    async def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> bool:
        self.point.reach("before-completion")
        completed = await super().complete(name, fence, outcome, ttl)
        if completed:
            self._note("done", name, fence, status=int(outcome.status))
            self.point.reach("after-completion")
        return completed

    async def release(self, name: bytes, fence: bytes) -> bool:
        released = await super().release(name, fence)
        if released:
            self._note("release", name, fence)
        return released

    async def wait(self, name: bytes, fence: bytes, delay: timedelta, tries: int) -> bool:
        waits = await super().wait(name, fence, delay, tries)
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

    async def transaction(self, fn: Callable[[Database], T], *, step: Callable[[T], Step] | None = None) -> T:
        operation = current_operation()
        if operation is None:
            return await super().transaction(fn, step=step)
        undoes: list[bool] = []
        asked: list[float] = []

        def within(db: Database) -> T:
            reply = fn(db)
            if step is None:
                self.point.reach("in-transaction")
            return reply

        def kept(reply: T) -> Step:
            assert step is not None
            made = step(reply)
            undoes.append(made.name.startswith(UNDO))
            self.point.reach("in-undo" if undoes[-1] else "in-step")
            asked.append(self.journal.now())
            return made

        if step is None:
            reply = await super().transaction(within)
            self._note("done", operation.name, operation.fence, status=0)
            self.point.reach("after-commit")
            return reply
        reply = await super().transaction(within, step=kept)
        name = getattr(step, "step").name  # noqa: B009  # the library's own, which remembers what it made
        self._note("step", operation.name, operation.fence, step=name, asked=asked[-1])
        self.point.reach("after-undo" if undoes[-1] else "between-steps")
        return reply

    def _note(self, event: str, name: bytes, fence: bytes, **more: object) -> None:
        self.journal.write(event, name=name.hex(), fence=fence.hex(), **more)
