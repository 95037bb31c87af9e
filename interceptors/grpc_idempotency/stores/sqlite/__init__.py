"""A store in an SQLite file: the default (6.2)."""

from grpc_idempotency.stores.sqlite.connection import open_read_only
from grpc_idempotency.stores.sqlite.store import AsyncSQLiteStore
from grpc_idempotency.stores.sqlite.threads import SQLiteStore

__all__ = ["AsyncSQLiteStore", "SQLiteStore", "open_read_only"]

# As in grpc_idempotency: what users see is where they import from.
for _public in (AsyncSQLiteStore, SQLiteStore, open_read_only):
    _public.__module__ = __name__
del _public
