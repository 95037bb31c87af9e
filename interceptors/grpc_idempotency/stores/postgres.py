"""A store in a PostgreSQL database, for many hosts (6.2). It needs the extra ``postgres``."""

try:
    import psycopg as _psycopg
    import psycopg_pool as _pool
except ImportError as _error:
    raise ImportError(
        "the PostgreSQL store needs psycopg and its pool: pip install 'grpc-idempotency[postgres]'"
    ) from _error

from typing import Any

from grpc_idempotency.stores._postgres.store import AsyncPostgresStore, PostgresStore
from grpc_idempotency.urls import Options, StoreUrl, flag, number, seconds

__all__ = ["AsyncPostgresStore", "PostgresStore", "async_from_url", "from_url"]

# As in grpc_idempotency: tracebacks and docs name the module that users import from.
for _public in (AsyncPostgresStore, PostgresStore):
    _public.__module__ = __name__
del _public, _pool

_OPTIONS: Options = {
    "schema": str,
    "lock_timeout": seconds,
    "max_connections": number,
    "transaction_pooler": flag,
    "migrate": flag,
}


def from_url(url: StoreUrl, *, migrate: bool, read_only: bool) -> PostgresStore:
    """See :class:`grpc_idempotency.urls.StoreFactory`."""
    return PostgresStore(url.without(_OPTIONS), **_settings(url, migrate))


def async_from_url(url: StoreUrl, *, migrate: bool, read_only: bool) -> AsyncPostgresStore:
    """See :class:`grpc_idempotency.urls.AsyncStoreFactory`."""
    return AsyncPostgresStore(url.without(_OPTIONS), **_settings(url, migrate))


def _settings(url: StoreUrl, migrate: bool) -> dict[str, Any]:
    keywords = {option.keyword.decode() for option in _psycopg.pq.Conninfo.get_defaults()}
    settings = url.settings(_OPTIONS, drivers=keywords)
    return settings | {"migrate": migrate and settings.get("migrate", True)}
