"""Faults of stores: each is a layer over the lab's store, whose audit still records what is really written."""

import asyncio
import contextvars
import random
import sqlite3
from collections.abc import Callable, Coroutine, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar, cast

from crash.audit import UNDO
from crash.misuse import LONGEST_STEP
from crash.store import LabStore
from grpc_idempotency import Database, Effects, FenceRefused, State, TransactionMisuse
from grpc_idempotency._operation.running import Running
from grpc_idempotency.aio import SQLiteStore
from grpc_idempotency.records import Claim, Outcome, Record, Step
from grpc_idempotency.stores._sqlite.view import _rows_of
from grpc_idempotency.transactions import bind_operation, running_operation
from shop.errors import Refused

T = TypeVar("T")
Statements = list[tuple[str, Sequence[Any], bool, int | None]]
"""SQL, its parameters, True if these are many rows, and the row id that an inserted row got."""
_random = random.Random()


class _Faulty(LabStore):
    """Base class of faults."""

    async def plain(self, fn: Callable[[Database], T]) -> T:
        """Runs a transaction as in an un-keyed call, so that it writes no record."""
        return await contextvars.Context().run(SQLiteStore.transaction, self, fn)

    async def statement(self, sql: str, *parameters: object) -> None:
        """Changes the store's own tables, which a transaction's function must not change."""

        def execute() -> None:
            with closing(sqlite3.connect(self.path, timeout=5, isolation_level=None)) as db:
                db.execute(sql, parameters)

        await asyncio.to_thread(execute)

    async def rehearsed(self, fn: Callable[[Database], T]) -> tuple[T, Statements]:
        """Runs a transaction's function, rolls back, and returns its reply and its statements."""
        replies: list[T] = []
        statements: Statements = []

        def rehearse(db: Database) -> None:
            replies.append(fn(cast(Database, _Listening(db, statements))))
            raise _RolledBack

        with suppress(_RolledBack):
            await self.plain(rehearse)
        return replies[0], statements

    async def unrecorded(self, operation: Running, fn: Callable[[Database], T]) -> T:
        """Commits the handler's rows and reports a completion, but does not touch the record."""
        reply = await self.plain(fn)
        operation.committed = operation.make_outcome(reply)
        return reply

    def transaction(
        self, fn: Callable[[Database], T], *, step: Callable[[T], Step] | None = None
    ) -> Coroutine[Any, Any, T]:
        operation: Any = running_operation()
        if operation is None or step is not None:
            return super().transaction(fn, step=step)
        return self.reply(operation, fn)

    async def reply(self, operation: Running, fn: Callable[[Database], T]) -> T:
        """Runs the transaction of a keyed call, in whichever task it is awaited."""
        context = contextvars.Context()
        bind_operation(context, operation)
        return await context.run(super().transaction, fn)


class _RolledBack(Exception):
    pass


class CompletionBeforeCommit(_Faulty):
    """Stores the outcome first, and then the rows in a transaction of their own."""

    async def reply(self, operation: Running, fn: Callable[[Database], T]) -> T:
        reply, statements = await self.rehearsed(fn)
        outcome = operation.make_outcome(reply)
        if operation.claim is None:
            await self.complete(operation.name, operation.fence, outcome, operation.ttl)
        else:
            await self.complete_unclaimed(operation.claim, outcome, operation.ttl)
        operation.committed = outcome
        await asyncio.sleep(0.02)
        self.point.reach("in-transaction")
        await self.plain(lambda db: _execute(db, statements))
        return reply


def _execute(db: Database, statements: Statements) -> None:
    given: dict[int | None, int | None] = {}
    for sql, parameters, many, row_id in statements:
        if many:  # each row begins with the id of the row that it belongs to, which may have changed
            db.executemany(sql, [(given.get(first, first), *more) for first, *more in parameters])
        else:
            answered: Any = db.execute(sql, parameters)
            given[row_id] = answered.lastrowid


class _Listening:
    """Records the statements of a transaction's function."""

    def __init__(self, db: Database, statements: Statements) -> None:
        self._db = db
        self._statements = statements
        self.IntegrityError = db.IntegrityError

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        answered: Any = self._db.execute(sql, parameters)
        self._statements.append((sql, parameters, False, answered.lastrowid))
        return answered

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]]) -> Any:
        self._statements.append((sql, parameters, True, None))
        return self._db.executemany(sql, parameters)


class DroppedFence(_Faulty):
    """Lets a run that has lost its operation continue."""

    async def reply(self, operation: Running, fn: Callable[[Database], T]) -> T:
        await asyncio.sleep(0.3)
        record = await self.get(operation.name)
        if record is not None and record.fence != operation.fence:
            return await self.unrecorded(operation, fn)
        return await super().reply(operation, fn)


class SkippedClaim(_Faulty):
    """Sometimes runs a handler without a claim."""

    async def claim(self, claim: Claim, *, over: bytes | None = None) -> Record | None:
        if _random.random() < 0.1:
            return None
        return await super().claim(claim, over=over)

    async def reply(self, operation: Running, fn: Callable[[Database], T]) -> T:
        record = await self.get(operation.name)
        if operation.claim is None and (record is None or record.fence != operation.fence):
            return await self.unrecorded(operation, fn)
        return await super().reply(operation, fn)


class StepNotStored(_Faulty):
    """Reports a step as kept, but does not keep it."""

    async def record_step(self, name: bytes, fence: bytes, step: Step) -> bool:
        if step.name.startswith(UNDO):
            return await super().record_step(name, fence, step)
        await asyncio.sleep(0.02)
        return True


class StepsKeptSlowly(_Faulty):
    """Takes longer to keep a step than the time after which steps are cut off. By itself this is no fault."""

    def transaction(
        self, fn: Callable[[Database], T], *, step: Callable[[T], Step] | None = None
    ) -> Coroutine[Any, Any, T]:
        committing = super().transaction(fn, step=step)
        return committing if step is None else _slowly(committing)

    async def record_step(self, name: bytes, fence: bytes, step: Step) -> bool:
        return await _slowly(super().record_step(name, fence, step))


async def _slowly(work: Coroutine[Any, Any, T]) -> T:
    result = await work
    await asyncio.sleep(2 * LONGEST_STEP)
    return result


class StepsReleased(_Faulty):
    """Releases operations that should be waiting with their finished steps."""

    async def wait(self, name: bytes, fence: bytes, delay: timedelta, failed_runs: int, failed_undos: int) -> bool:
        return await self.release(name, fence)


class ReleasedAfterOk(_Faulty):
    """Deletes completed records."""

    async def reply(self, operation: Running, fn: Callable[[Database], T]) -> T:
        reply = await super().reply(operation, fn)
        await self.statement("DELETE FROM grpc_idempotency_operations WHERE name = ?", operation.name)
        return reply


class LostCompletion(_Faulty):
    """Sometimes commits the rows, and not the outcome."""

    async def reply(self, operation: Running, fn: Callable[[Database], T]) -> T:
        if _random.random() < 0.2:
            return await self.unrecorded(operation, fn)
        return await super().reply(operation, fn)


class _Replaying(_Faulty):
    """Base class of faults in reading outcomes: a call that is claimed reads them by its claim, others by a look."""

    def replayed(self, outcome: Outcome, method: str) -> Outcome:
        """Returns what is read in place of a stored outcome of a method."""
        raise NotImplementedError

    async def claim(self, claim: Claim, *, over: bytes | None = None) -> Record | None:
        return self._read(await super().claim(claim, over=over))

    async def get(self, name: bytes) -> Record | None:
        return self._read(await super().get(name))

    def _read(self, record: Record | None) -> Record | None:
        if record is None or record.outcome is None:
            return record
        return replace(record, outcome=self.replayed(record.outcome, record.method))


class AnothersReply(_Replaying):
    """Replays the outcome of the key that was replayed before."""

    _last: Outcome | None = None

    def replayed(self, outcome: Outcome, method: str) -> Outcome:
        another, self._last = self._last or outcome, outcome
        return another


class TrailersLost(_Replaying):
    """Replays without trailers, to clients only: a checkout waits for the reasons that its own calls are told."""

    def replayed(self, outcome: Outcome, method: str) -> Outcome:
        return replace(outcome, trailers=()) if "OrderService" in method else outcome


class LeaseIgnored(_Faulty):
    """Takes over a running operation while its owner is alive."""

    async def claim(self, claim: Claim, *, over: bytes | None = None) -> Record | None:
        record = await super().claim(claim, over=over)
        if record is None or record.state is not State.RUNNING or record.lapsed:
            return record
        await self.statement("UPDATE grpc_idempotency_operations SET lease_until = 0 WHERE name = ?", record.name)
        return await super().claim(claim, over=record.fence)

    async def reply(self, operation: Running, fn: Callable[[Database], T]) -> T:
        await asyncio.sleep(0.02)
        return await super().reply(operation, fn)


class OpaqueAgain(_Faulty):
    """Runs an opaque operation again when its server is gone."""

    async def claim(self, claim: Claim, *, over: bytes | None = None) -> Record | None:
        record = await super().claim(claim, over=over)
        return record if record is None else replace(record, effects=Effects.REPEATABLE)

    async def reply(self, operation: Running, fn: Callable[[Database], T]) -> T:
        if operation.method.endswith("CancelOrder"):
            await asyncio.sleep(1)  # so that servers are killed in it
        return await super().reply(operation, fn)


class SwallowedRollback(_Faulty):
    """Lets a function continue after a rollback of its whole transaction, so that its further writes are committed."""

    async def reply(self, operation: Running, fn: Callable[[Database], T]) -> T:
        replies: list[T] = []

        def unwatched(db: Database) -> T:
            with closing(sqlite3.connect(self.path, timeout=5, isolation_level=None)) as own:
                replies.append(fn(cast(Database, _Unwatched(db, own))))
            return replies[-1]

        try:
            return await super().reply(operation, unwatched)
        except Refused:
            if not replies:
                raise  # the function itself has refused
            operation.committed = operation.make_outcome(replies[-1])
            return replies[-1]


class _Unwatched:
    """Runs statements even if there is no transaction any more."""

    def __init__(self, db: Database, own: sqlite3.Connection) -> None:
        self._db = db
        self._own = own
        self.IntegrityError = db.IntegrityError

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        try:
            return self._db.execute(sql, parameters)
        except TransactionMisuse:
            return _rows_of(self._own.execute(sql, parameters))

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]]) -> Any:
        try:
            return self._db.executemany(sql, parameters)
        except TransactionMisuse:
            return _rows_of(self._own.executemany(sql, parameters))


# Faults of operations that are not claimed


class CommittedOverRecord(_Faulty):
    """Commits although a record exists, by deleting it first."""

    async def reply(self, operation: Running, fn: Callable[[Database], T]) -> T:
        if operation.claim is not None:
            await self.statement("DELETE FROM grpc_idempotency_operations WHERE name = ?", operation.name)
        return await super().reply(operation, fn)


class CommittedTooLate(_Faulty):
    """Replies before the commit."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._commits: set[asyncio.Task[None]] = set()

    async def reply(self, operation: Running, fn: Callable[[Database], T]) -> T:
        claim = operation.claim
        if claim is None:
            return await super().reply(operation, fn)
        reply, statements = await self.rehearsed(fn)
        operation.committed = outcome = operation.make_outcome(reply)

        async def commit() -> None:
            await asyncio.sleep(0.02)
            if not isinstance(await self.complete_unclaimed(claim, outcome, operation.ttl), Record):
                await self.plain(lambda db: _execute(db, statements))

        task = asyncio.create_task(commit())
        self._commits.add(task)
        task.add_done_callback(self._commits.discard)
        return reply


class RefusedCommitAnswered(_Faulty):
    """Answers with the reply of a transaction that was refused because another run had committed."""

    async def reply(self, operation: Running, fn: Callable[[Database], T]) -> T:
        reply, _ = await self.rehearsed(fn)
        try:
            return await super().reply(operation, fn)
        except FenceRefused:
            operation.committed = operation.make_outcome(reply)
            return reply
