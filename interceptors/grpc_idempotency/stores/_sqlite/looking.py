"""What only operators ask: lists, searches, counts and notes (6.4).

A list is a merge of ranges, one for each state and method: within a range an index has the order of claims. Each
request looks at a bounded number of operations, since the file's only connection answers nothing else meanwhile.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from grpc_idempotency.records import State
from grpc_idempotency.stores._calls.requests import CountRequest, FindRequest, ListRequest, MethodsRequest, NotesRequest
from grpc_idempotency.stores._sqlite import rows
from grpc_idempotency.stores._sqlite.tables import Tables

_SCANNED_AT_ONCE = 1024
"""How many operations one part of a list looks at, in all ranges together."""
_READ_AT_ONCE = 32
"""How many records one part of a list has at most: each can be some megabytes."""
_COUNTED_AT_ONCE = 20_000
"""How many completed operations one part of a count looks at."""
_RANGE = 200
"""How many operations the beginning of another range counts as, since it takes as long."""
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
        scanned = max(most + 1, _SCANNED_AT_ONCE // max(1, len(ranges)))
        chosen: list[_Place] = []
        ends: list[_Place] = []
        for one in ranges:
            found, end = _scan(db, tables, request, one, now, most + 1, scanned)
            chosen += found
            if end is not None:
                ends.append(end)
        chosen.sort(reverse=back)
        behind = None
        if ends:  # beyond the first of these ends, not every range has been looked at
            behind = max(ends) if back else min(ends)
            chosen = [place for place in chosen if (place >= behind if back else place <= behind)]
        if len(chosen) > most:
            behind = chosen[most - 1]
        names = [name for _, name in chosen[:most]]
        read = db.execute(*tables.sql.by_names("read", names)).fetchall() if names else []
    records = {row[0]: rows.record(row, now) for row in read}
    place = None if behind is None else (rows.instant(behind[0]), behind[1])
    request.value = [records[name] for name in names], place


def find(db: sqlite3.Connection, tables: Tables, request: FindRequest) -> None:
    """Reads the records whose names are between two names."""
    now = tables.clock.now()
    found = db.execute(tables.sql["find"], (request.least, request.most, now, request.limit)).fetchall()
    request.value = [rows.record(row, now) for row in found]


def count_part(db: sqlite3.Connection, tables: Tables, request: CountRequest) -> None:
    """Counts all operations that are open, or the next completed ones in the order of methods and claims."""
    counts: Counter[tuple[str, State]] = Counter()
    request.value = counts, None
    method, after = request.after or (-1, _LAST)
    if request.after is None:
        for name, state, count in db.execute(tables.sql["count_open"]).fetchall():
            counts[name, rows.STATES[state]] += count
        if not request.completed:
            return
    now, left = tables.clock.now(), _COUNTED_AT_ONCE
    while left > 0:
        end = db.execute(tables.sql["count_until"], (method, after, left)).fetchone()
        until = _LAST if end is None else end[0]
        name, looked, count = db.execute(tables.sql["count_done"], (method, now, method, after, until)).fetchone()
        if count:
            counts[name, State.COMPLETED] += count
        left -= looked + _RANGE
        if end is None:  # there are no others of this method
            following = db.execute(tables.sql["next_done_method"], (method,)).fetchone()
            if following is None:
                return
            method, until = following[0], _FIRST
        after = until
    request.value = counts, (method, after)


def methods(db: sqlite3.Connection, tables: Tables, request: MethodsRequest) -> None:
    """Reads the names of the methods of operations: one seek for each pair of a state and a method."""
    with _snapshot(db):
        numbers = {method for _, method in _pairs(db, tables, range(len(rows.STATES)))}
        named = (db.execute(tables.sql["method_name"], (number,)).fetchone() for number in numbers)
        request.value = [row[0] for row in named if row is not None]


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
    return _pairs(db, tables, wanted)


def _pairs(db: sqlite3.Connection, tables: Tables, states: Sequence[int]) -> list[rows.Row]:
    """Returns the pairs of one of these states and a method of which there are operations."""
    found: list[rows.Row] = []
    for state in states:
        is_done = state == rows.COMPLETED
        statement = tables.sql["next_done_method" if is_done else "next_method"]
        at = -1
        while (row := db.execute(statement, (at,) if is_done else (state, at)).fetchone()) is not None:
            (at,) = row
            found.append((state, at))
    return found


def _scan(
    db: sqlite3.Connection, tables: Tables, request: ListRequest, one: rows.Row, now: int, most: int, scanned: int
) -> tuple[list[_Place], _Place | None]:
    """Looks for the next places of a range that are listed.

    Args:
        db: The connection.
        tables: The tables.
        request: The request.
        one: The range.
        now: The store's time.
        most: How many places to find at most.
        scanned: How many operations to look at, at most.

    Returns:
        The places, and the last place that was looked at; ``None`` in its stead if there are no others behind it.
    """
    found: list[_Place] = []
    with closing(db.execute(*_scanning(tables, request, one, scanned))) as cursor:
        for count, row in enumerate(cursor, 1):
            if _is_listed(row, one[0], request, now):
                found.append(row[:2])
            if len(found) == most or count == scanned:
                return found, row[:2]
    return found, None


def _scanning(tables: Tables, request: ListRequest, one: rows.Row, limit: int) -> tuple[str, rows.Row]:
    """Returns the statement that reads a range from the place on where the last part has ended, and its parameters."""
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
    return tables.sql[statement], (*place, first, last, edge, name, limit)


def _is_listed(row: rows.Row, state: int, request: ListRequest, now: int) -> bool:
    _, _, lease_until, expires_at = row
    if request.stuck and state != rows.HELD and (lease_until is None or lease_until > now):
        return False
    return expires_at is None or expires_at > now
