"""The fixtures of servers whose interceptors are observed."""

from collections.abc import Iterator

import pytest

from ..harness.fixtures import discretion, promptly, pytest_generate_tests, serve
from .watched import Watched

__all__ = ["discretion", "promptly", "pytest_generate_tests", "serve", "watched"]


@pytest.fixture
def watched() -> Iterator[Watched]:
    """All observers with their exporters."""
    watched = Watched()
    yield watched
    watched.close()
