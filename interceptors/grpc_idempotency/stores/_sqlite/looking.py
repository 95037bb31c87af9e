"""What only operators ask: lists, searches, counts and notes (6.4).

A list is a merge of ranges, one for each state and method: within a range an index has the order of claims. Each
request looks at a bounded number of operations, since the file's only connection answers nothing else meanwhile.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from grpc_idempotency.records import State
from grpc_idempotency.stores._calls.requests import CountRequest, FindRequest, ListRequest, NotesRequest
from grpc_idempotency.stores._sqlite import rows
from grpc_idempotency.stores._sqlite.tables import Tables

_SCANNED_AT_ONCE = 1024
"""How many operations one part of a list looks at, in all ranges together."""
_READ_AT_ONCE = 32
"""How many records one part of a list has at most: each can be some megabytes."""
_COUNTED_AT_ONCE = 20_000
_FIRST, _LAST = -(1 << 62), 1 << 62
"""Times before and after all others."""

_Place = tuple[int, bytes]
"""The position of an operation in a list: the time of its claim in milliseconds, and its name."""


def list_part(db: sqlite3.Connection, tables: Tables, request: ListRequest) -> None:
    """Looks at the next operations of each range, and reads the first of those that match."""
    with _snapshot(db):
        now, back = tables.clock.now(), request.newest_first
        most = min(request.limit, _READ_AT_ONCE)
        ranges = _ranges(db, tables, request)
        each = max(most + 1, _SCANNED_AT_ONCE // max(1, len(ranges)))
        chosen: list[_Place] = []
        ends: list[_Place] = []
        for one in ranges:
            scanned = _scan(db, tables, request, one, each)
            chosen += [row[:2] for row in scanned if _is_listed(row, one[0], request, now)]
            if len(scanned) == each:
                ends.append(scanned[-1][:2])
        chosen.sort(reverse=back)
        behind = None
        if ends:  # beyond the first of these ends, not every range has been looked at
            behind = max(ends) if back else min(ends)
            chosen = [place for place in chosen if (place >= behind if back else place <= behind)]
        if len(chosen) > most:
            behind = chosen[most - 1]
        names = [name for _, name in chosen[:most]]
        found = db.execute(*tables.sql.by_names("read", names)).fetchall() if names else []
    records = {row[0]: rows.record(row, now) for row in found}
    place = None if behind is None else (rows.instant(behind[0]), behind[1])
    request.value = [records[name] for name in names], place


def find(db: sqlite3.Connection, tables: Tables, request: FindRequest) -> None:
    """Reads the records whose names are between two names."""
    now = tables.clock.now()
    found = db.execute(tables.sql["find"], (request.least, request.most, now, request.limit)).fetchall()
    request.value = [rows.record(row, now) for row in found]


def count_part(db: sqlite3.Connection, tables: Tables, request: CountRequest) -> None:
    """Counts all operations that are open, or completed ones that expire within a range of times."""
    after: int | None = request.after
    counts: Counter[tuple[str, State]] = Counter()
    found: list[rows.Row] = []
    last = None
    if after is None:
        found += db.execute(tables.sql["count_open"]).fetchall()
        after = tables.clock.now()
    if request.completed:
        last = db.execute(tables.sql["count_until"], (after, _COUNTED_AT_ONCE)).fetchone()
        until = _LAST if last is None else last[0]
        found += db.execute(tables.sql["count_done"], (after, until)).fetchall()
    for method, state, count in found:
        counts[method, rows.STATES[state]] += count
    request.value = counts, None if last is None else last[0]


def notes(db: sqlite3.Connection, tables: Tables, request: NotesRequest) -> None:
    """Reads the notes on one operation."""
    found = db.execute(tables.sql["notes"], (request.name, tables.clock.now())).fetchall()
    request.value = [rows.note(row) for row in found]


@contextmanager
def _snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """Lets the block see the file as it is at one instant: an operation is in one range, and not in two or none."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        if db.in_transaction:  # a failure may have ended it
            db.execute("COMMIT")


def _ranges(db: sqlite3.Connection, tables: Tables, request: ListRequest) -> list[rows.Row]:
    """Returns the ranges that a list has to merge: a state and a method each, if there are operations of both."""
    wanted = [
        number
        for number, state in enumerate(rows.STATES)
        if request.state in (None, state) and not (request.stuck and state is State.COMPLETED)
    ]
    if request.method is not None:
        method = tables.methods.find(db, request.method)
        return [] if method is None else [(state, method) for state in wanted]
    found = [*_following(db, tables.sql["next_range"], (-1, -1))]
    found += [(rows.COMPLETED, method) for (method,) in _following(db, tables.sql["next_done_method"], (-1,))]
    return [one for one in found if one[0] in wanted]


def _following(db: sqlite3.Connection, statement: str, at: rows.Row) -> Iterator[rows.Row]:
    """Runs a statement again and again, each time on the row that it has returned."""
    row = db.execute(statement, at).fetchone()
    while row is not None:
        yield row
        row = db.execute(statement, row).fetchone()


def _scan(db: sqlite3.Connection, tables: Tables, request: ListRequest, one: rows.Row, limit: int) -> list[rows.Row]:
    """Reads the next places of a range, each with the times that decide whether the operation is listed."""
    first = _FIRST if request.since is None else rows.wall_ms_from(request.since)
    last = _LAST if request.until is None else rows.wall_ms_from(request.until) - 1
    edge, name = (_LAST, b"") if request.after is None else (rows.wall_ms(request.after[0]), request.after[1])
    if request.after is not None and request.newest_first:
        last = min(last, edge)
    elif request.after is not None:
        first = max(first, edge)
    is_done = one[0] == rows.COMPLETED
    statement = ("scan_done" if is_done else "scan") + ("_back" if request.newest_first else "")
    place = one[1:] if is_done else one
    return db.execute(tables.sql[statement], (*place, first, last, edge, name, limit)).fetchall()


def _is_listed(row: rows.Row, state: int, request: ListRequest, now: int) -> bool:
    _, _, lease_until, expires_at = row
    if request.stuck and state != rows.HELD and (lease_until is None or lease_until > now):
        return False
    return expires_at is None or expires_at > now
