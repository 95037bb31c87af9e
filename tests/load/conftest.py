"""The echo service, as every kind of handler on every kind of server."""

from ..echo.fixtures import discretion, kind, serve

__all__ = ["discretion", "kind", "serve"]
