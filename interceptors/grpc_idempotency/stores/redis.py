"""A store on Redis or Valkey, one server or a cluster (6.2). Needs ``grpc-idempotency[redis]``."""

try:
    import redis  # noqa: F401  # whether it is there
except ModuleNotFoundError as _exc:
    raise ModuleNotFoundError(
        "the Redis store needs redis-py: pip install 'grpc-idempotency[redis]'", name="redis"
    ) from _exc

from grpc_idempotency.stores._redis.store import AsyncRedisStore, RedisStore

__all__ = ["AsyncRedisStore", "RedisStore"]

# As in grpc_idempotency: tracebacks and docs name the module that users import from.
for _public in (AsyncRedisStore, RedisStore):
    _public.__module__ = __name__
del _public
