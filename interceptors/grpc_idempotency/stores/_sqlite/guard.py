"""Decides, with SQLite's own parser, what a transaction's function may do to the database (5.1).

The text of a statement is not enough: SQLite skips byte order marks, and a comment may stand between any two words. So
the connection has an authorizer. SQLite asks it about everything that a statement will do, when it prepares the
statement. Prepared statements are cached by their text, and the authorizer is not asked again; therefore a function's
statements get a prefix that the store's own statements never have, one in a transaction and another one in a read.
"""

import sqlite3
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpc_idempotency.stores._sqlite.view import View

STORE, TRANSACTION, READ = "", " ", "\n"
"""The owner of the statements that run now. The value is the prefix of a function's statements."""
WRITES = "a read's function must not write, and nothing that it wrote is kept: writing is for transaction"

_CONTROL = {
    sqlite3.SQLITE_TRANSACTION: "BEGIN, COMMIT and ROLLBACK are",
    sqlite3.SQLITE_SAVEPOINT: "SAVEPOINT and RELEASE are, but for db.savepoint(),",
    sqlite3.SQLITE_ATTACH: "ATTACH is",
    sqlite3.SQLITE_DETACH: "DETACH is",
}
_READING = frozenset([sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE])
_DECLARING = frozenset((sqlite3.SQLITE_UPDATE, table) for table in ("sqlite_master", "sqlite_temp_master"))
"""The action that SQLite asks about when it first meets a table-valued function.

A transaction's function can't perform this action itself: SQLite refuses it.
"""
_KEEPS_TABLES = _READING | {sqlite3.SQLITE_ANALYZE, sqlite3.SQLITE_REINDEX}
_DESCRIBING = frozenset(
    [
        *("database_list", "foreign_key_check", "foreign_key_list", "index_info", "index_list", "index_xinfo"),
        *("table_info", "table_list", "table_xinfo"),
    ]
)
"""Pragmas that only read, with any argument."""
_TELLING = frozenset(["data_version", "page_size"])
"""Pragmas that only read if they have no argument. Full-text and R-Tree tables use them internally."""


class Guard:
    """The authorizer of one connection."""

    __slots__ = ("_tables", "denied", "mode", "thread", "view")

    def __init__(self) -> None:
        self.mode = STORE
        self.denied: str | None = None
        """The reason why the last failed statement was refused here, if it was. The code that reports it resets it."""
        self.thread = threading.get_ident()
        """The id of the connection's thread, which creates the connection."""
        self.view: View | None = None
        """The view of the running function. A view sets this attribute, and ``mode``, while it is open."""
        self._tables: set[str] = set()

    def protect(self, tables: Iterable[str]) -> None:
        """Makes these tables read-only for functions."""
        self._tables.update(tables)

    def __call__(self, action: int, one: str | None, two: str | None, _database: str | None, _by: str | None) -> int:
        """Answers SQLite's question whether an action is allowed. The meaning of the names depends on the action."""
        if self.mode is STORE:
            return sqlite3.SQLITE_OK
        objection = self._objection(action, one or "", two or "")
        if objection is None:
            return sqlite3.SQLITE_OK
        self.denied = objection
        return sqlite3.SQLITE_DENY

    def _objection(self, action: int, one: str, two: str) -> str | None:
        if action in _CONTROL:
            return f"{_CONTROL[action]} not for a transaction's function: it shares its commit with others"
        if action == sqlite3.SQLITE_PRAGMA:
            name = one.lower()
            if name in _DESCRIBING or (name in _TELLING and not two):
                return None
            return f"PRAGMA {one} is not for a transaction's function: it shares its connection with others"
        if self.mode is READ and action not in _READING and (action, one) not in _DECLARING:
            return WRITES
        if action not in _KEEPS_TABLES and not self._tables.isdisjoint((one.lower(), two.lower())):
            return "the store's own tables are not for a transaction's function to change"
        return None


class GuardedConnection(sqlite3.Connection):
    """A connection with its guard."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.guard = Guard()
        self.set_authorizer(self.guard)
