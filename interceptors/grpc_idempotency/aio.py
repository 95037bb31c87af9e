"""The interceptors for ``grpc.aio``, and the stores whose calls are awaited."""

from typing import TYPE_CHECKING

from grpc_idempotency._client.aio import client_interceptors, status_of
from grpc_idempotency._server.aio.interceptor import IdempotencyInterceptor
from grpc_idempotency._server.aio.serving import serve
from grpc_idempotency.operation import AsyncOperation as Operation
from grpc_idempotency.operation import current_async_operation as current_operation
from grpc_idempotency.store import AsyncStore as Store
from grpc_idempotency.urls import async_store_from_url as store_from_url

if TYPE_CHECKING:
    from grpc_idempotency.stores.memory import AsyncMemoryStore as MemoryStore
    from grpc_idempotency.stores.postgres import AsyncPostgresStore as PostgresStore
    from grpc_idempotency.stores.redis import AsyncRedisStore as RedisStore
    from grpc_idempotency.stores.sqlite import AsyncSQLiteStore as SQLiteStore

__all__ = [
    "IdempotencyInterceptor",
    "MemoryStore",
    "Operation",
    "PostgresStore",
    "RedisStore",
    "SQLiteStore",
    "Store",
    "client_interceptors",
    "current_operation",
    "serve",
    "status_of",
    "store_from_url",
]

# As in grpc_idempotency: users see the module that they import from.
for _public in (IdempotencyInterceptor, client_interceptors, serve, status_of):
    _public.__module__ = __name__
del _public


if not TYPE_CHECKING:

    def __getattr__(name: str) -> type:
        """Imports a store, and its driver with it, on first access."""
        if name == "MemoryStore":
            from grpc_idempotency.stores.memory import AsyncMemoryStore as Store
        elif name == "PostgresStore":
            from grpc_idempotency.stores.postgres import AsyncPostgresStore as Store
        elif name == "RedisStore":
            from grpc_idempotency.stores.redis import AsyncRedisStore as Store
        elif name == "SQLiteStore":
            from grpc_idempotency.stores.sqlite import AsyncSQLiteStore as Store
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = Store
        return Store

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
