"""A store in a PostgreSQL database, for many hosts (6.2). It needs the extra ``postgres``."""

try:
    import psycopg as _psycopg
    import psycopg_pool as _pool
except ImportError as _error:
    raise ImportError(
        "the PostgreSQL store needs psycopg and its pool: pip install 'grpc-idempotency[postgres]'"
    ) from _error

from grpc_idempotency.stores._postgres.store import AsyncPostgresStore, PostgresStore

__all__ = ["AsyncPostgresStore", "PostgresStore"]

# As in grpc_idempotency: tracebacks and docs name the module that users import from.
for _public in (AsyncPostgresStore, PostgresStore):
    _public.__module__ = __name__
del _public, _psycopg, _pool
