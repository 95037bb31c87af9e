"""A store in an SQLite file: the default (6.2)."""

from grpc_idempotency.stores.sqlite.connection import open_read_only
from grpc_idempotency.stores.sqlite.store import AsyncSQLiteStore
from grpc_idempotency.stores.sqlite.threads import SQLiteStore

__all__ = ["AsyncSQLiteStore", "SQLiteStore", "open_read_only"]
