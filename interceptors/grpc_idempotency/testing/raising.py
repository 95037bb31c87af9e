"""Assertions on the errors that the suites expect."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def raises(*errors: type[BaseException]) -> Iterator[None]:
    """Asserts that the block raises one of these errors."""
    try:
        yield
    except errors:
        return
    raise AssertionError(f"none of {', '.join(error.__name__ for error in errors)} was raised")
