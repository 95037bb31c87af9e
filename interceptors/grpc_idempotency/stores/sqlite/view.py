"""The view of the database that a transaction's function gets (5.1)."""

import re
import sqlite3
from collections.abc import Sequence
from typing import Any

from grpc_idempotency.errors import TransactionMisuse

_BLANKS = r"(?:\s|;|--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z))*"
_FIRST_WORD = re.compile(_BLANKS + r"(\w*)", re.DOTALL)
_WHOLE_ROLLBACK = re.compile(r"\bOR\s+ROLLBACK\b", re.IGNORECASE)
_REFUSED = frozenset(
    ["BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE", "ATTACH", "DETACH", "VACUUM", "PRAGMA"]
)
_MOST_REMEMBERED = 2048
_allowed: set[str] = set()
"""Statements that were looked at already: looking costs more than running a small one."""


class Rows:
    """What a statement answered; all of it, so that no open cursor can hold a lock."""

    __slots__ = ("_at", "_rows", "lastrowid", "rowcount")

    def __init__(self, rows: list[tuple[Any, ...]], rowcount: int, lastrowid: int | None) -> None:
        self._rows = rows
        self._at = 0
        self.rowcount = rowcount
        """Rows changed by an INSERT, UPDATE or DELETE; -1 for others."""
        self.lastrowid = lastrowid
        """The id of the row that was inserted last."""

    def fetchone(self) -> tuple[Any, ...] | None:
        """The next row, or ``None`` behind the last."""
        if self._at >= len(self._rows):
            return None
        self._at += 1
        return self._rows[self._at - 1]

    def fetchall(self) -> list[tuple[Any, ...]]:
        """The rows that are left."""
        rest, self._at = self._rows[self._at :], len(self._rows)
        return rest


class View:
    """Statements, and no say in the transaction itself; dead once the function has returned."""

    __slots__ = ("_db",)

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db: sqlite3.Connection | None = db

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """Runs one statement."""
        if sql not in _allowed:
            _look_at(sql)
        return _rows_of(self._open().execute(sql, parameters))

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]]) -> Rows:
        """Runs one statement once for each row of parameters; ``rowcount`` is their sum."""
        if sql not in _allowed:
            _look_at(sql)
        return _rows_of(self._open().executemany(sql, parameters))

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            raise TransactionMisuse("the transaction is over: its db must not be used after its function has returned")
        return self._db

    def close(self) -> None:
        """The function has returned."""
        self._db = None


def _rows_of(cursor: sqlite3.Cursor) -> Rows:
    # Only a statement that has columns has rows: asking the others for them would cost a turn of the GIL.
    rows = cursor.fetchall() if cursor.description else []
    return Rows(rows, cursor.rowcount, cursor.lastrowid)


def _look_at(sql: str) -> None:
    first = _FIRST_WORD.match(sql)
    word = first.group(1).upper() if first else ""
    if word in _REFUSED:
        raise TransactionMisuse(f"{word} is not for a transaction's function: it shares its commit with others")
    if _WHOLE_ROLLBACK.search(sql):
        raise TransactionMisuse("OR ROLLBACK would roll back other operations too: use OR ABORT, the default")
    if len(_allowed) >= _MOST_REMEMBERED:
        _allowed.clear()
    _allowed.add(sql)
