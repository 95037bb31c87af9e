"""What a transaction's function may do to the database, decided by SQLite's own parser (5.1).

The text of a statement can't tell: SQLite skips byte order marks, and a comment may stand between any two words. So the
connection has an authorizer, which SQLite asks about everything that a statement will do while it prepares it. Prepared
statements are kept by their text and are not asked about again; therefore a function's statements get a prefix that
the store's own never have, one in a transaction and another in a read.
"""

import sqlite3
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpc_idempotency.stores._sqlite.view import View

STORE, TRANSACTION, READ = "", " ", "\n"
"""Whose statements are being run; the value is what a function's statements get as a prefix."""
WRITES = "a read's function must not write, and nothing that it wrote is kept: writing is for transaction"

_CONTROL = {
    sqlite3.SQLITE_TRANSACTION: "BEGIN, COMMIT and ROLLBACK are",
    sqlite3.SQLITE_SAVEPOINT: "SAVEPOINT and RELEASE are, but for db.savepoint(),",
    sqlite3.SQLITE_ATTACH: "ATTACH is",
    sqlite3.SQLITE_DETACH: "DETACH is",
}
_READING = frozenset([sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE])
_DECLARING = frozenset((sqlite3.SQLITE_UPDATE, table) for table in ("sqlite_master", "sqlite_temp_master"))
"""What SQLite asks when a table-valued function is met first. A function can't do it: SQLite itself refuses."""
_KEEPS_TABLES = _READING | {sqlite3.SQLITE_ANALYZE, sqlite3.SQLITE_REINDEX}
_DESCRIBING = frozenset(
    [
        *("database_list", "foreign_key_check", "foreign_key_list", "index_info", "index_list", "index_xinfo"),
        *("table_info", "table_list", "table_xinfo"),
    ]
)
"""Pragmas that only tell something, whatever argument they are given."""
_TELLING = frozenset(["data_version", "page_size"])
"""Pragmas that only tell something if they are given no argument. Full-text and R-Tree tables ask them themselves."""


class Guard:
    """The authorizer of one connection."""

    __slots__ = ("_tables", "denied", "mode", "thread", "view")

    def __init__(self) -> None:
        self.mode = STORE
        self.denied: str | None = None
        """Why the statement that failed last was refused here, if it was; whoever tells so resets it."""
        self.thread = threading.get_ident()
        """The thread of the connection, which makes it."""
        self.view: View | None = None
        """What the function that is running has of the database. A view sets it, and ``mode``, while it is open."""
        self._tables: set[str] = set()

    def protect(self, tables: Iterable[str]) -> None:
        """Makes these tables read-only to functions."""
        self._tables.update(tables)

    def __call__(self, action: int, one: str | None, two: str | None, _database: str | None, _by: str | None) -> int:
        """What SQLite asks; the names depend on the action."""
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
