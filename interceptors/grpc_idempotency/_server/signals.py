"""The signals by which a server's process is asked to end."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

GRACE = timedelta(seconds=10)
"""How long calls have to end when the server stops, by default."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def on_signal(asked: Callable[[], object]) -> Iterator[None]:
    """Calls ``asked`` on the first SIGTERM or SIGINT within the block. A second signal ends the process at once.

    Args:
        asked: Called in the main thread between two of its instructions, so it must not take a lock.

    Raises:
        ValueError: This is not the main thread.
    """

    def handle(*_: object) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)  # not Python's: that would wait for threads of running calls
        asked()

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        for number in _SIGNALS:
            signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not set by Python
