"""``store.transaction`` within a group (5.1): each function under a savepoint, all outcomes in one statement.

A step is stored at once (5.2): if a step of its name exists already, its function's rows must be rolled back.
"""

import inspect
from collections.abc import Sequence
from typing import Any

from grpc_idempotency.errors import FenceRefused, TransactionMisuse
from grpc_idempotency.records import Code
from grpc_idempotency.stores._calls.nesting import inside
from grpc_idempotency.stores._calls.requests import TransactionRequest
from grpc_idempotency.stores._sqlite import room, rows
from grpc_idempotency.stores._sqlite.faults import fault_of, translated
from grpc_idempotency.stores._sqlite.guard import READ, TRANSACTION, WRITES, GuardedConnection
from grpc_idempotency.stores._sqlite.sql import MOST_ROWS, PADDED
from grpc_idempotency.stores._sqlite.tables import Tables
from grpc_idempotency.stores._sqlite.view import View
from grpc_idempotency.transactions import RunningOperation

_A_PAGE = 4096


class Transactions:
    """The transactions of one group, each under a savepoint, one after the other.

    Nesting all savepoints would save one call each. But then SQLite keeps a copy of a page for every savepoint: three
    times the work at a depth of 64.
    """

    def __init__(self, db: GuardedConnection, tables: Tables) -> None:
        self._db = db
        self._tables = tables
        self._saved = False
        self._kept_since = False
        self._completed: dict[bytes, bytes] = {}
        """The fences under which this group completes operations, by name."""
        self._outcomes: list[rows.Row] = []
        """The rows that complete records."""
        self._records: list[rows.Row] = []
        """The rows of completed records of operations that were not claimed."""
        self._refused: dict[bytes, tuple[bytes, int] | None] = {}
        """The operations that may not commit: for each fence, the fence and state of the record that exists, if any."""
        self.kept: list[TransactionRequest] = []
        """The transactions whose rows will be committed."""
        self.lost_by: BaseException | None = None
        """The error of the last transaction by which SQLite rolled back the whole group; ``None`` if it did not."""
        self.lone = False
        """True if the group is one transaction and nothing else: then it needs no savepoint."""

    def expect(self, requests: Sequence[TransactionRequest], now: int) -> None:
        """Finds out which of these operations have lost their records, or have a record though they were not claimed.

        Nobody else writes until the group is committed, so the result still holds when the outcomes are stored.
        """
        claimed: list[RunningOperation] = []
        unclaimed: list[RunningOperation] = []
        for request in requests:
            operation = request.operation
            if operation is not None:
                (claimed if operation.claim is None else unclaimed).append(operation)
        if claimed and self._count_owned(claimed) != len(claimed):
            for one in claimed:
                if self._count_owned([one]) == 0:
                    self._refused[one.fence] = self._standing([one], now).get(one.name)
        if unclaimed and (standing := self._standing(unclaimed, now)):
            self._refused |= {one.fence: standing[one.name] for one in unclaimed if one.name in standing}

    def must_wait(self, request: TransactionRequest) -> bool:
        """Returns ``True`` if this group already completes another run of the operation: the next group must decide.

        Two servers of this process can run one operation at the same time if neither has claimed it.
        """
        operation = request.operation
        return operation is not None and self._completed.get(operation.name, operation.fence) != operation.fence

    def run(self, request: TransactionRequest, now: int, wall: int) -> None:
        """Runs one transaction, and rolls its rows back if they may not be committed."""
        request.committed = request.step = None
        if request.operation is not None and (refusal := self._refusal(request.operation)) is not None:
            request.error = refusal
            return
        if not self.lone:
            self._save()
        if self._attempt(request) and self._keep(request, now, wall):
            self.kept.append(request)
        else:
            request.committed = request.step = None
            self._undo()

    def _attempt(self, request: TransactionRequest) -> bool:
        """Runs the function, and returns ``True`` if its rows may stay."""
        view = View(self._db, READ if request.reads else TRANSACTION)
        changes = self._db.total_changes
        try:
            keeps = request.context.run(_call, request, view)
            if request.reads and self._db.total_changes != changes:
                raise TransactionMisuse(WRITES)
        except BaseException as error:  # whatever the function raises goes to its caller
            request.error = self._translated(error)
            return False
        else:
            return keeps
        finally:
            view.close()
            self.lost_by = view.lost_by

    def store_outcomes(self, now: int) -> None:
        """Completes the records of all transactions that ran, or inserts completed ones."""
        sql = self._tables.sql
        for at in range(0, len(self._outcomes), MOST_ROWS):
            part = self._outcomes[at : at + MOST_ROWS]
            size = PADDED[len(part)]
            values = rows.flat(part) + [None] * (rows.OUTCOME_COLUMNS * (size - len(part)))
            self._write(sql.sized["complete", rows.OUTCOME_COLUMNS, size], values, len(part))
        for at in range(0, len(self._records), MOST_ROWS):
            part = self._records[at : at + MOST_ROWS]
            self._write(*sql.inserting("complete_unclaimed", part, now), len(part))

    def _write(self, sql: str, values: list[Any], count: int) -> None:
        if self._db.execute(sql, values).rowcount != count:
            raise FenceRefused("the operation's record was changed in its own transaction, by a trigger perhaps")

    def _keep(self, request: TransactionRequest, now: int, wall: int) -> bool:
        """Prepares the outcome, or stores the step, to be committed with the rows. Returns ``True`` if it can be."""
        operation = request.operation
        if operation is None:
            return True
        try:
            if request.step is not None:
                row = rows.step_row(operation.name, operation.fence, request.step, wall)
                if self._db.execute(self._tables.sql.sized["record_step", len(row), 1], row).rowcount != 1:
                    raise FenceRefused("the operation has another owner by now, or has kept a step of this name")
            elif request.committed is not None:
                outcome, claim = request.committed, operation.claim
                if claim is None:
                    row = rows.outcome_row(operation.name, operation.fence, outcome, operation.ttl, now, wall)
                    self._outcomes.append(row)
                else:
                    method = self._tables.methods[claim.method]
                    self._records.append(rows.completed_row(claim, method, outcome, operation.ttl, now, wall))
                self._completed[operation.name] = operation.fence
                request.completed_at = rows.instant(wall)
        except Exception as error:
            request.error = translated(error, self._tables.path)
            return False
        return True

    def _refusal(self, operation: RunningOperation) -> TransactionMisuse | FenceRefused | None:
        """Returns the reason why an operation may not commit; ``None`` if it may."""
        if operation.name in self._completed or operation.committed is not None:
            return TransactionMisuse("a keyed call has one transaction: its first has committed the reply already")
        if operation.fence not in self._refused:
            return None
        if self._refused[operation.fence] == (operation.fence, rows.COMPLETED):
            return TransactionMisuse("a keyed call has one transaction: its outcome is stored already")
        return FenceRefused("the operation has another owner by now: its transaction was not run")

    def _save(self) -> None:
        """Sets a savepoint. One that was rolled back to serves the next transaction, too."""
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
        values: list[Any] = []
        for operation in operations:
            values += (operation.name, operation.fence)
        size = PADDED[len(operations)]
        values += [None] * (2 * (size - len(operations)))
        count: int = self._db.execute(self._tables.sql.sized["count_owned", 2, size], values).fetchone()[0]
        return count

    def _standing(self, operations: Sequence[RunningOperation], now: int) -> dict[bytes, tuple[bytes, int]]:
        """Returns fence and state of the existing records by name."""
        sql, parameters = self._tables.sql.by_names("standing", [one.name for one in operations])
        return {row[0]: row[1:3] for row in self._db.execute(sql, [*parameters, now]).fetchall()}


def _call(request: TransactionRequest, view: View) -> bool:
    """Runs the function in its caller's context, and returns ``True`` if its rows may stay."""
    inside.set(view)
    request.value = request.fn(view)
    if inspect.isawaitable(request.value):
        if inspect.iscoroutine(request.value):
            request.value.close()
        raise TransactionMisuse("the function must be a plain def, and not await: it runs on the database's thread")
    view.finish()
    if request.operation is None:
        return True
    if request.make_step is not None:
        request.step = request.make_step(request.value)
        return True
    request.committed = request.operation.make_outcome(request.value)
    return request.committed.status is Code.OK
