"""Counts the records of the store for observers: the part that both wings share."""

from collections.abc import Callable, Mapping

from grpc_idempotency._server.clock import now
from grpc_idempotency.events import RecordsCounted
from grpc_idempotency.records import State

COUNT_EVERY = 2.0
"""Seconds between two counts, jittered."""
_COMPLETED_EVERY = 60.0
"""Seconds between two counts of the completed records, too."""
_SHARE = 20
"""Counting completed records takes at most one of so many seconds: there may be millions of them."""


class Counting:
    """Decides which records are counted next, and tells the counts.

    Args:
        tell: Tells an event.
    """

    def __init__(self, tell: Callable[[RecordsCounted], None]) -> None:
        self._tell = tell
        self._completed_at = 0.0
        """When the completed records are to be counted next."""

    def begin(self) -> tuple[bool, float]:
        """Begins a count.

        Returns:
            True if the completed records are to be counted, too; and the time at which the count begins.
        """
        at = now()
        return at >= self._completed_at, at

    def end(self, counts: Mapping[tuple[str, State], int], *, completed: bool, began: float) -> None:
        """Ends a count.

        Args:
            counts: The answer of the store.
            completed: True if the completed records were counted, too.
            began: When the count began.
        """
        if completed:
            at = now()
            self._completed_at = at + max(_COMPLETED_EVERY, (at - began) * _SHARE)
        self._tell(RecordsCounted(counts=counts, completed=completed))
