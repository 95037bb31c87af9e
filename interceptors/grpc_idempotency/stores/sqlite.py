"""A store in an SQLite file: the default (6.2)."""

from grpc_idempotency.stores._sqlite.store import AsyncSQLiteStore, SQLiteStore

__all__ = ["AsyncSQLiteStore", "SQLiteStore"]

# As in grpc_idempotency: what users see is where they import from.
for _public in (AsyncSQLiteStore, SQLiteStore):
    _public.__module__ = __name__
del _public
