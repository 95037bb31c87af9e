"""What operators ask costs the same among a million operations as among ten thousand (6.4)."""

import itertools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from grpc_idempotency.records import Note, State
from grpc_idempotency.stores._calls.parts import Parts, counting, listing
from grpc_idempotency.stores._calls.requests import FindRequest, MethodsRequest, NotesRequest, PendingRequest, Request
from grpc_idempotency.stores._sqlite import reads, rows
from grpc_idempotency.stores.sqlite import SQLiteStore
from grpc_idempotency.testing import TTL, a_claim

from .conftest import HandClock

METHODS = [f"/shop.orders.v1.OrderService/Method{number:02}" for number in range(20)]
HELD = METHODS[-1]
"""The method whose operations are held. Of all others they are completed."""
COUNTS = {"few": 10_000, "many": 1_000_000}
_FILL = """
    WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count - 1),
    drawn AS (SELECT n, CASE WHEN n % 5 = 4 THEN 2 ELSE 1 END AS state FROM numbers)
    INSERT INTO grpc_idempotency_operations
        (name, state, fence, effects, method, raw, created_ms, completed_ms, ttl_ms, expires_at, status, message)
    SELECT randomblob(16), state, randomblob(16), 0, iif(state = 2, 20, 1 + n % 19), zeroblob(32), :begin + n,
        iif(state = 1, :begin + n, NULL), iif(state = 1, :ttl, NULL), iif(state = 1, :begin + n + :ttl, NULL),
        iif(state = 1, 0, NULL), zeroblob(100)
    FROM drawn
"""


class Filled:
    """A file with many operations, and a connection that counts the steps of SQLite's machine."""

    def __init__(self, path: Path, count: int) -> None:
        self.count = count
        self.begin = HandClock().wall
        self._steps = 0
        with closing(SQLiteStore(path, _clock=HandClock())) as store:
            claims = [a_claim(method=method) for method in METHODS]
            for claim in claims:
                assert store.claim(claim) is None
                assert store.hold(claim.name, claim.fence, "its server is gone")
            note = Note(by="ann", action="never happened", reason="")
            assert store.resolve(claims[0].name, claims[0].fence, None, TTL, note)
            self.noted = claims[0].name
            assert store._tables is not None
            self._tables: Any = store._tables
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -200000"):
                db.execute(f"PRAGMA {pragma}")
            db.execute(
                _FILL, {"count": count, "begin": self.begin, "ttl": timedelta(days=365) // timedelta(milliseconds=1)}
            )
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.set_progress_handler(self._step, 10)

    def _step(self) -> None:
        self._steps += 1

    def close(self) -> None:
        self._db.close()

    def asked(self, parts: Parts[Any]) -> tuple[Any, int]:
        """Returns the answer to a call, and the steps that it took."""
        self._steps = 0
        try:
            request = next(parts)
            while True:
                request = parts.send(self._answer(request))
        except StopIteration as done:
            return done.value, self._steps * 10

    def _answer(self, request: Request[Any]) -> Any:
        reads._READS[type(request)](self._db, self._tables, request)
        return request.value


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Filled]]:
    folder = tmp_path_factory.mktemp("many")
    made = {name: Filled(folder / f"{name}.db", count) for name, count in COUNTS.items()}
    yield made
    for one in made.values():
        one.close()


def single(request: Request[Any]) -> Parts[Any]:
    value: Any = yield request
    return value


def pages(**chosen: Any) -> Callable[[Filled], Parts[Any]]:
    return lambda _: listing(None, 50, **chosen)


def window(**chosen: Any) -> Callable[[Filled], Parts[Any]]:
    def ask(file: Filled) -> Parts[Any]:
        middle = rows.instant(file.begin + file.count // 2)
        return listing(None, 50, since=middle - timedelta(milliseconds=400), until=middle, **chosen)

    return ask


STATES = (None, State.COMPLETED, State.HELD, State.RUNNING)
LISTS = [
    {"state": state, "method": method, "newest_first": newest_first, "stuck": stuck}
    for state, method, newest_first, stuck in itertools.product(
        STATES, (None, METHODS[3], HELD, "/a.B/None"), (False, True), (False, True)
    )
]
QUESTIONS: dict[str, Callable[[Filled], Parts[Any]]] = {
    **{f"list {chosen}": pages(**chosen) for chosen in LISTS},
    **{f"list {chosen} of a time": window(**chosen) for chosen in LISTS},
    "find": lambda _: single(FindRequest.of("abcdef", 2)),
    "methods": lambda _: single(MethodsRequest()),
    "notes": lambda file: single(NotesRequest(file.noted)),
    "pending": lambda _: single(PendingRequest(tuple(METHODS), 100)),
}


@pytest.mark.slow
def test_it_reads_what_it_returns(filled: dict[str, Filled]) -> None:
    """Every list, search and look at notes takes SQLite as many steps in both files, but for a few."""
    for name, question in QUESTIONS.items():
        (few, alone), (many, among) = (file.asked(question(file)) for file in filled.values())
        assert len(few) == len(many) or name == "find"
        assert among < 2 * alone + 500, (name, alone, among)


@pytest.mark.slow
def test_lists_are_right_among_many(filled: dict[str, Filled]) -> None:
    """The fifty newest of a method are those, in their order."""
    file = filled["many"]
    found, _ = file.asked(listing(None, 50, method=METHODS[3], newest_first=True))
    numbers = [number for number in range(file.count) if number % 5 != 4 and number % 19 == 3][:-51:-1]
    assert [rows.wall_ms(one.created_at) - file.begin for one in found] == numbers


@pytest.mark.slow
def test_counts_are_of_indexes_alone(filled: dict[str, Filled]) -> None:
    """All are counted, in parts that each take a bounded number of steps; without completed ones, in one part."""
    file = filled["many"]
    counts, _ = file.asked(counting(completed=True))
    assert sum(counts.values()) == file.count + len(METHODS) - 1
    assert counts[HELD, State.HELD] == file.count // 5 + 1
    counts, _ = file.asked(counting(completed=False))
    assert sum(counts.values()) == file.count // 5 + len(METHODS) - 1
