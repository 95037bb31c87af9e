"""The fixtures of servers, for each kind of handler."""

from ..harness.fixtures import discretion, pytest_generate_tests, serve

__all__ = ["discretion", "pytest_generate_tests", "serve"]
