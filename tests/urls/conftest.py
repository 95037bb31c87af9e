"""Real engines."""

from ..harness.engines import postgres_server, postgresql, redis_url, valkey_server

__all__ = ["postgres_server", "postgresql", "redis_url", "valkey_server"]
