"""A store in an SQLite file: the default (6.2)."""

from grpc_idempotency.stores.sqlite.store import AsyncSQLiteStore

__all__ = ["AsyncSQLiteStore"]
