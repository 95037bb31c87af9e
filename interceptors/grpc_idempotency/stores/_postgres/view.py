"""The database as a transaction's plain function sees it (5.1)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from grpc_idempotency.stores._postgres.guard import Guard, check
from grpc_idempotency.stores._postgres.settings import Connection

_COUNTED = ("INSERT", "UPDATE", "DELETE", "MERGE")


class Rows:
    """The result of a statement. It has all rows."""

    __slots__ = ("_at", "_rows", "rowcount")

    def __init__(self, rows: list[tuple[Any, ...]], rowcount: int) -> None:
        self._rows = rows
        self._at = 0
        self.rowcount = rowcount
        """The number of rows that an INSERT, UPDATE or DELETE changed; -1 for other statements."""

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


class View:
    """Runs statements, but can't control the transaction. It can't be used once the function has returned."""

    __slots__ = ("_db", "_depth", "guard")

    Warning: type[Exception] = psycopg.Warning
    Error: type[Exception] = psycopg.Error
    InterfaceError: type[Exception] = psycopg.InterfaceError
    DatabaseError: type[Exception] = psycopg.DatabaseError
    DataError: type[Exception] = psycopg.DataError
    OperationalError: type[Exception] = psycopg.OperationalError
    IntegrityError: type[Exception] = psycopg.IntegrityError
    InternalError: type[Exception] = psycopg.InternalError
    ProgrammingError: type[Exception] = psycopg.ProgrammingError
    NotSupportedError: type[Exception] = psycopg.NotSupportedError

    def __init__(self, db: Connection, guard: Guard) -> None:
        self._db = db
        self._depth = 0
        self.guard = guard

    @property
    def ended(self) -> bool:
        """True once the function has ended."""
        return self.guard.ended

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """Runs one statement."""
        check(sql)
        self._require()
        cursor = self._db.cursor()
        try:
            if parameters:
                cursor.execute(sql, parameters)
            else:
                with self._db.pipeline():  # so the server refuses several statements, as it does with parameters
                    cursor.execute(sql)
        except psycopg.Error as error:
            self.guard.failed(error)
            raise
        return _rows_of(cursor)

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]]) -> Rows:
        """Runs one statement once for each row of parameters; ``rowcount`` is the total."""
        # As a list: a generator could run statements and catch their errors, and would go on after a rollback.
        listed = list(parameters)
        check(sql)
        self._require()
        cursor = self._db.cursor()
        try:
            cursor.executemany(sql, listed)
        except psycopg.Error as error:
            self.guard.failed(error)
            raise
        return _rows_of(cursor)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Runs a block under a savepoint: an error that leaves the block rolls back the block's changes alone."""
        self._require()
        self._depth += 1
        name = f"grpc_idempotency_{self._depth}"
        self._control(f"SAVEPOINT {name}")
        try:
            yield
        except BaseException:
            if not self.guard.ended and self._status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                self._control(f"ROLLBACK TO {name}")
                self._control(f"RELEASE {name}")
                self.guard.lost_by = None
            raise
        else:
            self._require()
            self._control(f"RELEASE {name}")
        finally:
            self._depth -= 1

    def finish(self) -> None:
        """Raises if the transaction was lost while the function ran, as a further statement would."""
        self._require()

    @property
    def _status(self) -> TransactionStatus:
        return self._db.info.transaction_status

    def _require(self) -> None:
        self.guard.require(self._status)

    def _control(self, sql: str) -> None:
        try:
            self._db.execute(sql.encode())
        except psycopg.Error as error:
            self.guard.failed(error)
            raise


def _rows_of(cursor: psycopg.Cursor[Any]) -> Rows:
    rows = cursor.fetchall() if cursor.description else []
    counted = (cursor.statusmessage or "").startswith(_COUNTED)
    return Rows(rows, cursor.rowcount if counted else -1)
