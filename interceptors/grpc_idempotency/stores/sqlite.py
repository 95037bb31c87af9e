"""A store in an SQLite file: the default (6.2)."""

from grpc_idempotency.stores._sqlite.store import AsyncSQLiteStore, SQLiteStore

__all__ = ["AsyncSQLiteStore", "SQLiteStore"]

# As in grpc_idempotency: tracebacks and docs name the module that users import from.
for _public in (AsyncSQLiteStore, SQLiteStore):
    _public.__module__ = __name__
del _public
