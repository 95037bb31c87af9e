"""``store.transaction`` within a group (5.1): each function under a savepoint, all outcomes in one statement.

A step is kept at once (5.2): whether there is one of its name already decides about its function's rows.
"""

import inspect
from collections.abc import Sequence
from typing import Any

from grpc_idempotency.errors import FenceRefused, TransactionMisuse
from grpc_idempotency.records import Code
from grpc_idempotency.store import RunningOperation
from grpc_idempotency.stores._sqlite import nesting, room, rows
from grpc_idempotency.stores._sqlite.faults import fault_of, translated
from grpc_idempotency.stores._sqlite.guard import READ, TRANSACTION, WRITES, GuardedConnection
from grpc_idempotency.stores._sqlite.requests import TransactionRequest
from grpc_idempotency.stores._sqlite.sql import MOST_ROWS, padded
from grpc_idempotency.stores._sqlite.tables import Tables
from grpc_idempotency.stores._sqlite.view import View

_A_PAGE = 4096


class Transactions:
    """The transactions of one group, each under a savepoint, one after the other.

    To leave them all in one another would save a call each, but SQLite then keeps a copy of a page for every one of
    them: three times the work at 64 deep.
    """

    def __init__(self, db: GuardedConnection, tables: Tables) -> None:
        self._db = db
        self._tables = tables
        self._saved = False
        self._kept_since = False
        self._outcomes: dict[bytes, rows.Row] = {}
        self._refused: dict[bytes, tuple[bytes, int] | None] = {}
        self.kept: list[TransactionRequest] = []
        """Those whose rows are to be committed."""
        self.lost_by: BaseException | None = None
        """The error of the last one's by which SQLite has rolled back the whole group, if it has."""
        self.lone = False
        """Whether the group is one transaction and nothing else: then the group's own is enough."""

    def expect(self, requests: Sequence[TransactionRequest]) -> None:
        """Finds out which of these transactions' operations have lost their records.

        Nobody else writes until the group is committed, so what is so now is so when its outcomes are stored.
        """
        operations = [one.operation for one in requests if one.operation is not None]
        if not operations or self._count_owned(operations) == len(operations):
            return
        for operation in operations:
            if self._count_owned([operation]) == 0:
                self._refused[operation.name] = self._standing(operation)

    def run(self, request: TransactionRequest, now: int, wall: int) -> None:
        """Runs one; its rows stay only if it may have a reply."""
        request.committed = request.step = None
        try:
            self._admit(request.operation)
        except (FenceRefused, TransactionMisuse) as error:
            request.error = error
            return
        self._save()
        if self._attempt(request) and self._keep(request, now, wall):
            self.kept.append(request)
        else:
            request.committed = request.step = None
            self._undo()

    def _attempt(self, request: TransactionRequest) -> bool:
        """Runs the function; whether its rows may stay."""
        guard = self._db.guard
        view = View(self._db, READ if request.reads else TRANSACTION)
        changes = self._db.total_changes
        guard.enter(view)
        try:
            keeps = request.context.run(_call, request, view)
            if request.reads and self._db.total_changes != changes:
                raise TransactionMisuse(WRITES)
        except BaseException as error:  # whatever the function raises is its caller's
            request.error = self._translated(error)
            return False
        else:
            return keeps
        finally:
            view.close()
            guard.leave()
            self.lost_by = view.lost_by

    def store_outcomes(self) -> None:
        """Completes the records of all that were run."""
        parameters = list(self._outcomes.values())
        for at in range(0, len(parameters), MOST_ROWS):
            part = parameters[at : at + MOST_ROWS]
            size = padded(len(part))
            values = rows.flat(part) + [None] * (rows.OUTCOME_COLUMNS * (size - len(part)))
            changed = self._db.execute(self._tables.sql.sized("complete", rows.OUTCOME_COLUMNS, size), values).rowcount
            if changed != len(part):
                raise FenceRefused("the operation's record was changed in its own transaction, by a trigger perhaps")

    def _keep(self, request: TransactionRequest, now: int, wall: int) -> bool:
        """Sees to it that the outcome, or the step, is committed with the rows; whether it can be."""
        operation = request.operation
        if operation is None:
            return True
        try:
            if request.step is not None:
                row = rows.step_row(operation.name, operation.fence, request.step, wall)
                if self._db.execute(self._tables.sql.sized("record_step", len(row), 1), row).rowcount != 1:
                    raise FenceRefused("the operation has another owner by now, or has kept a step of this name")
            elif request.committed is not None:
                outcome = request.committed
                row = rows.outcome_row(operation.name, operation.fence, outcome, operation.ttl, now, wall)
                self._outcomes[operation.name] = row
                request.completed_at = rows.instant(wall)
        except Exception as error:
            request.error = translated(error, self._tables.path)
            return False
        return True

    def _admit(self, operation: RunningOperation | None) -> None:
        if operation is None:
            return
        if operation.name in self._outcomes or operation.committed is not None:
            raise TransactionMisuse("a keyed call has one transaction: its first has committed the reply already")
        if operation.name in self._refused:
            if self._refused[operation.name] == (operation.fence, rows.COMPLETED):
                raise TransactionMisuse("a keyed call has one transaction: its outcome is stored already")
            raise FenceRefused("the operation has another owner by now: its transaction was not run")

    def _save(self) -> None:
        """Makes a point to go back to; one that was gone back to is good for the next, too."""
        if self.lone:
            return
        if self._saved and self._kept_since:
            self._db.execute("RELEASE grpc_idempotency")
        if not self._saved or self._kept_since:
            self._db.execute("SAVEPOINT grpc_idempotency")
        self._saved = self._kept_since = True

    def _undo(self) -> None:
        if not self._db.in_transaction:
            return
        self._db.execute("ROLLBACK" if self.lone else "ROLLBACK TO grpc_idempotency")
        self._kept_since = False

    def _translated(self, error: BaseException) -> BaseException:
        if isinstance(error, StopIteration):
            wrapped: Exception = RuntimeError("the transaction's function raised StopIteration")
            wrapped.__cause__ = error
            return wrapped
        if fault_of(error) is None or not isinstance(error, Exception):
            return error
        room.remember(self._tables, error, _A_PAGE)
        return translated(error, self._tables.path)

    def _count_owned(self, operations: Sequence[RunningOperation]) -> int:
        size = padded(len(operations))
        values: list[Any] = [part for operation in operations for part in (operation.name, operation.fence)]
        values += [None] * (2 * (size - len(operations)))
        count: int = self._db.execute(self._tables.sql.sized("count_owned", 2, size), values).fetchone()[0]
        return count

    def _standing(self, operation: RunningOperation) -> tuple[bytes, int] | None:
        sql, parameters = self._tables.sql.by_names("standing", [operation.name])
        row = self._db.execute(sql, [*parameters, self._tables.clock.now()]).fetchone()
        return None if row is None else (row[1], row[2])


def _call(request: TransactionRequest, view: View) -> bool:
    """Runs the function in its caller's context; whether its rows may stay."""
    nesting.enter(view)
    request.value = request.fn(view)
    if inspect.isawaitable(request.value):
        if inspect.iscoroutine(request.value):
            request.value.close()
        raise TransactionMisuse("a transaction's function must not await: give a plain function")
    view.finish()
    if request.operation is None:
        return True
    if request.make_step is not None:
        request.step = request.make_step(request.value)
        return True
    request.committed = request.operation.seal(request.value)
    return request.committed.status is Code.OK
