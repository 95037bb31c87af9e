"""The database as a transaction's function sees it (5.1)."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from grpc_idempotency.errors import TransactionMisuse
from grpc_idempotency.stores._sqlite.faults import fault_of
from grpc_idempotency.stores._sqlite.guard import STORE, GuardedConnection


class Rows:
    """The result of a statement. It has all rows, so that no open cursor can hold a lock."""

    __slots__ = ("_at", "_rows", "lastrowid", "rowcount")

    def __init__(self, rows: list[tuple[Any, ...]], rowcount: int, lastrowid: int | None) -> None:
        self._rows = rows
        self._at = 0
        self.rowcount = rowcount
        """The number of rows that an INSERT, UPDATE or DELETE changed; -1 for other statements."""
        self.lastrowid = lastrowid
        """The id of the last inserted row."""

    def fetchone(self) -> tuple[Any, ...] | None:
        """Returns the next row, or ``None`` after the last one."""
        if self._at >= len(self._rows):
            return None
        self._at += 1
        return self._rows[self._at - 1]

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Returns the remaining rows."""
        rest, self._at = self._rows[self._at :], len(self._rows)
        return rest


_FAILURES = (sqlite3.Error, MemoryError)


class View:
    """Runs statements, but can't control the transaction. It can't be used once the function has returned.

    From its creation until it is closed, the connection's guard allows what the view's mode allows.

    SQLite responds to some errors by rolling back the whole transaction: a full disk, a constraint or statement with ON
    CONFLICT ROLLBACK, a trigger that raises ROLLBACK. The connection is in autocommit mode afterwards. The view checks
    this before each statement, so that no statement is ever committed by itself.
    """

    __slots__ = ("_db", "_depth", "_guard", "ended", "lost_by", "mode")

    Warning: type[Exception] = sqlite3.Warning
    Error: type[Exception] = sqlite3.Error
    InterfaceError: type[Exception] = sqlite3.InterfaceError
    DatabaseError: type[Exception] = sqlite3.DatabaseError
    DataError: type[Exception] = sqlite3.DataError
    OperationalError: type[Exception] = sqlite3.OperationalError
    IntegrityError: type[Exception] = sqlite3.IntegrityError
    InternalError: type[Exception] = sqlite3.InternalError
    ProgrammingError: type[Exception] = sqlite3.ProgrammingError
    NotSupportedError: type[Exception] = sqlite3.NotSupportedError

    def __init__(self, db: GuardedConnection, mode: str) -> None:
        self._db: GuardedConnection | None = db
        self._guard = db.guard
        self.mode = mode
        """The statements that the function may run (guard.py)."""
        self._depth = 0
        self.ended = False
        """True once the function has ended and its reply is processed."""
        self.lost_by: BaseException | None = None
        """The error by which SQLite has rolled back the transaction; ``None`` if it has not."""
        guard = self._guard
        guard.view, guard.mode, guard.denied = self, mode, None

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """Runs one statement."""
        db = self._db
        if db is None or not db.in_transaction:
            db = self._open()
        try:
            return _rows_of(db.execute(self.mode + sql, parameters))
        except _FAILURES as error:
            self._failed(error)
            raise

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]]) -> Rows:
        """Runs one statement once for each row of parameters; ``rowcount`` is the total."""
        # As a list: a generator could run statements and catch their errors, and would go on after a rollback.
        listed = list(parameters)
        db = self._open()
        try:
            return _rows_of(db.executemany(self.mode + sql, listed))
        except _FAILURES as error:
            self._failed(error)
            raise

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Runs a block under a savepoint: an error that leaves the block rolls back the block's changes alone."""
        self._depth += 1
        name = f"grpc_idempotency_{self._depth}"
        self._control("SAVEPOINT", name)
        try:
            yield
        except BaseException:
            if self._db is not None and self._db.in_transaction:
                self._control("ROLLBACK TO", name)
                self._control("RELEASE", name)
            raise
        else:
            self._control("RELEASE", name)
        finally:
            self._depth -= 1

    def finish(self) -> None:
        """Ends the use of the view after the function has returned.

        Raises, as a further statement would, if the transaction has been rolled back in the meantime.
        """
        if self._db is None or not self._db.in_transaction:
            self._open()
        self._db = None

    def close(self) -> None:
        """Closes the view, however its function ended. The guard ignores the store's own statements from now on."""
        self._db = None
        self.ended = True
        self._guard.mode, self._guard.view = STORE, None

    def _open(self) -> GuardedConnection:
        if self._db is None:
            raise TransactionMisuse("the transaction has ended: its db can't be used after its function has returned")
        if not self._db.in_transaction:
            if self.lost_by is not None and fault_of(self.lost_by) is not None:
                raise self.lost_by  # a failure of the database, such as a full disk, is no misuse
            raise TransactionMisuse(
                "the database has rolled back the whole transaction, and nothing of it is kept: its function must not "
                f"go on after that error ({self.lost_by})"
            ) from self.lost_by
        return self._db

    def _failed(self, error: BaseException) -> None:
        """Records whether a failed statement rolled back the transaction. Raises if the guard refused the statement."""
        if self._db is not None and not self._db.in_transaction:
            self.lost_by = error
        denied, self._guard.denied = self._guard.denied, None
        if denied is None and str(error).startswith("cannot VACUUM"):  # the authorizer isn't asked
            denied = "VACUUM is not for a transaction's function"
        if denied is not None:
            raise TransactionMisuse(denied) from error

    def _control(self, what: str, name: str) -> None:
        db = self._open()
        self._guard.mode = STORE
        try:
            db.execute(f"{what} {name}")
        except _FAILURES as error:
            self._failed(error)
            raise
        finally:
            self._guard.mode = self.mode


def _rows_of(cursor: sqlite3.Cursor) -> Rows:
    # Only a statement with columns has rows. Fetching from other statements would release the GIL for nothing.
    rows = cursor.fetchall() if cursor.description else []
    return Rows(rows, cursor.rowcount, cursor.lastrowid)
