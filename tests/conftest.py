"""What holds for all tests."""

import gc
import signal

import hypothesis
import pytest

from .matrix.table import pytest_runtest_logreport, pytest_terminal_summary

__all__ = ["pytest_collection_finish", "pytest_runtest_logreport", "pytest_terminal_summary"]

# The contract suite is the library's: pytest rewrites its asserts only on request.
pytest.register_assert_rewrite("grpc_idempotency.testing")

# A shell that runs the tests in the background has them ignore this, and their processes would too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more of the machine than of the code. make test-all takes the second profile.
hypothesis.settings.register_profile("house", deadline=None)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=400)
hypothesis.settings.load_profile("house")


def pytest_collection_finish() -> None:
    """What is loaded by now stays, so that no later collection has to look through it, and collections are rare."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
