"""A store on Redis or Valkey, one server or a cluster (6.2). Needs ``grpc-idempotency[redis]``."""

try:
    import redis  # noqa: F401  # whether it is there
except ModuleNotFoundError as _exc:
    raise ModuleNotFoundError(
        "the Redis store needs redis-py: pip install 'grpc-idempotency[redis]'", name="redis"
    ) from _exc

from typing import Any

from grpc_idempotency.stores._redis.store import AsyncRedisStore, RedisStore
from grpc_idempotency.urls import Options, StoreUrl, flag, number, seconds

__all__ = ["AsyncRedisStore", "RedisStore", "async_from_url", "from_url"]

# As in grpc_idempotency: tracebacks and docs name the module that users import from.
for _public in (AsyncRedisStore, RedisStore):
    _public.__module__ = __name__
del _public

_OPTIONS: Options = {
    "prefix": str,
    "timeout": seconds,
    "replicas": number,
    "replica_timeout": seconds,
    "list_completed": flag,
    "migrate": flag,
}
_DRIVERS = frozenset(
    (
        "client_name",
        "db",
        "health_check_interval",
        "password",
        "socket_keepalive",
        "ssl_ca_certs",
        "ssl_ca_path",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_keyfile",
        "ssl_password",
        "username",
    )
)
"""The options of a connection that redis-py reads from a URL, and that do not change what the store relies on."""


def from_url(url: StoreUrl, *, migrate: bool, read_only: bool) -> RedisStore:
    """See :class:`grpc_idempotency.urls.StoreFactory`."""
    return RedisStore(_drivers_url(url), **_settings(url, migrate))


def async_from_url(url: StoreUrl, *, migrate: bool, read_only: bool) -> AsyncRedisStore:
    """See :class:`grpc_idempotency.urls.AsyncStoreFactory`."""
    return AsyncRedisStore(_drivers_url(url), **_settings(url, migrate))


def _settings(url: StoreUrl, migrate: bool) -> dict[str, Any]:
    settings = url.settings(_OPTIONS, drivers=_DRIVERS)
    return settings | {"migrate": migrate and settings.get("migrate", True)}


def _drivers_url(url: StoreUrl) -> str:
    """Returns the URL as redis-py reads it: Valkey speaks the same protocol."""
    _, _, rest = url.without(_OPTIONS).partition(":")
    return f"{url.scheme.replace('valkey', 'redis')}:{rest}"
