"""Calls that consist of several requests in sequence, so that other users of the database get a turn between them."""

from collections import Counter
from collections.abc import Generator
from typing import Any, TypeVar

from grpc_idempotency.records import Record, State, Swept
from grpc_idempotency.stores._calls.requests import CountRequest, Counts, ListRequest, Place, Request, SweepRequest

T = TypeVar("T")
Parts = Generator[Request[Any], Any, T]
"""A generator that yields requests, and is sent the answer to each."""
_SWEPT_AT_ONCE = 100


def listing(after: Record | None, limit: int, **chosen: Any) -> Parts[list[Record]]:
    """Reads the records of one page. ``chosen`` are the other arguments of ``list``."""
    found: list[Record] = []
    behind: Place | None = None if after is None else (after.created_at, after.name)
    while len(found) < limit:
        part, behind = yield ListRequest(behind, limit - len(found), **chosen)
        found += part
        if behind is None:
            break
    return found


def counting(completed: bool) -> Parts[Counts]:
    """Counts the records of each method and state."""
    counts: Counter[tuple[str, State]] = Counter()
    after: Any = None
    while True:
        part, after = yield CountRequest(completed, after)
        counts.update(part)
        if after is None:
            return dict(counts)


def sweeping(limit: int) -> Parts[Swept]:
    """Deletes up to ``limit`` expired records."""
    deleted = freed = 0
    more = True
    while more and deleted < limit:
        part: Swept = yield SweepRequest(min(_SWEPT_AT_ONCE, limit - deleted))
        deleted, freed, more = deleted + part.deleted, freed + part.freed_bytes, part.more
    return Swept(deleted=deleted, more=more, freed_bytes=freed)
