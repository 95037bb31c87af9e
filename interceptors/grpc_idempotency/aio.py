"""grpc-idempotency for ``grpc.aio``: the interceptor and the stores that it awaits."""

from grpc_idempotency._aio import IdempotencyInterceptor
from grpc_idempotency.stores.memory import AsyncMemoryStore as MemoryStore
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore as SQLiteStore

__all__ = ["IdempotencyInterceptor", "MemoryStore", "SQLiteStore"]
