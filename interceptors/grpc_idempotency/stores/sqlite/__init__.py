"""A store in an SQLite file: the default (6.2)."""

from grpc_idempotency.stores.sqlite.store import AsyncSQLiteStore
from grpc_idempotency.stores.sqlite.threads import SQLiteStore

__all__ = ["AsyncSQLiteStore", "SQLiteStore"]
