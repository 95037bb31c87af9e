"""The numbers that stand for the names of methods in the rows of operations."""

import sqlite3

from grpc_idempotency.stores._sqlite.sql import Sql
from grpc_idempotency.stores._sqlite.turns import begin


class Methods(dict[str, int]):
    """The numbers of methods by their names, as far as this process has needed them.

    It is a dictionary, so that looking up a known method calls no Python function. A number is added once it is
    committed: one that was given in a group's transaction would be wrong after the group's rollback.
    """

    def __init__(self, sql: Sql) -> None:
        super().__init__()
        self._sql = sql

    def find(self, db: sqlite3.Connection, method: str) -> int | None:
        """Returns a method's number; ``None`` if there was never an operation of it."""
        if method not in self:
            row = db.execute(self._sql["find_method"], (method,)).fetchone()
            if row is None:
                return None
            self[method] = row[0]
        return self[method]

    def add(self, db: sqlite3.Connection, method: str, patience: float, path: str) -> None:
        """Gives a number to a method that has none yet, in a transaction of its own.

        Args:
            db: The connection.
            method: The method's full name.
            patience: The maximum time to wait for the write lock, in seconds.
            path: The file, for errors.
        """
        if self.find(db, method) is not None:
            return
        begin(db, patience, path)
        try:
            db.execute(self._sql["add_method"], (method,))
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        self.find(db, method)
