"""A real PostgreSQL for the tests of this folder."""

from ..harness.engines import postgres_server, postgresql

__all__ = ["postgres_server", "postgresql"]
