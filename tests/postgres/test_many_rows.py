"""Operators' calls on a table with a million operations: each reads about what it returns, and counts read an index."""

import itertools
import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql as compose

from grpc_idempotency.records import State
from grpc_idempotency.stores._calls.requests import ListRequest
from grpc_idempotency.stores._postgres import reads, rows
from grpc_idempotency.stores._postgres.settings import Sessions
from grpc_idempotency.stores._postgres.sql import Sql
from grpc_idempotency.stores.postgres import PostgresStore

from .conftest import CLOCK, Place
from .test_plans import settings

ROWS = 1_000_000
METHODS = [f"/shop.v1.Service{n}/Method" for n in range(8)]
RARE = "/shop.v1.Rare/Method"
PAGE = 50
FEW_PAGES = 1_500
"""More than a list of 50 records reads of the table and its indexes, in pages of 8 KiB. All have some 60,000."""
OPEN_PAGES = 25_000
"""More than all open operations take: a list of stuck ones passes over those whose leases hold."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def filled(server: str) -> Iterator[Place]:
    """A million operations, of which 20,000 are open, and 5 of a method that was called rarely, long ago."""
    place = Place(server)
    try:
        _fill(place)
        yield place
    finally:
        place.drop()


def _fill(place: Place) -> None:
    store = PostgresStore(place.url, schema=place.schema, _clock=CLOCK)
    store.open()
    store.close()
    place.db.execute("ALTER TABLE operations SET (autovacuum_enabled = off)")
    place.db.execute("CREATE TABLE methods (number integer, method text, crc integer)")
    for number, method in enumerate([*METHODS, RARE]):
        place.db.execute("INSERT INTO methods VALUES (%s, %s, %s)", (number, method, rows.method_crc(method)))
    place.db.execute(
        "INSERT INTO operations (name, state, fence, effects, streams, created_at, lease_until, completed_at, "
        "expires_at, status, owner, method, method_crc, raw, message) "
        "SELECT uuid_send(gen_random_uuid()), o.state, uuid_send(gen_random_uuid()), 0, false, "
        "c.at - n * interval '10 milliseconds', "
        "CASE WHEN o.state IN (0, 3) THEN c.at + ((n %% 3) - 1) * interval '1 minute' END, "
        "CASE o.state WHEN 1 THEN c.at END, CASE o.state WHEN 1 THEN c.at + interval '1 day' END, "
        "CASE o.state WHEN 1 THEN 0 END, 'host:1', m.method, m.crc, sha256(n::text::bytea), sha256(n::text::bytea) "
        "FROM generate_series(1, %s) AS n CROSS JOIN clock AS c "
        "JOIN methods AS m ON m.number = CASE WHEN n > %s - 5 THEN 8 ELSE n %% 8 END "
        "CROSS JOIN LATERAL (SELECT CASE n %% 150 WHEN 0 THEN 0 WHEN 1 THEN 2 WHEN 2 THEN 3 ELSE 1 END AS state) AS o",
        (ROWS, ROWS),
    )


class Explained:
    """Explains statements as the store runs them: prepared, with one plan for all values."""

    def __init__(self, place: Place) -> None:
        self.db = psycopg.connect(**settings(place).arguments)
        Sessions(settings(place)).begin(self.db, own=True)
        self._names = map("statement{}".format, itertools.count())
        self._sql = Sql(place.schema, CLOCK)
        self.seen = ""
        """The last plan, as JSON."""

    def pages(self, statement: str, parameters: dict[str, Any]) -> int:
        """Runs a statement, and returns how many pages it has read, of the disk or of memory."""
        order: list[str] = []

        def numbered(found: re.Match[str]) -> str:
            if found[1] not in order:
                order.append(found[1])
            return f"${order.index(found[1]) + 1}"

        text = re.sub(r"%\((\w+)\)b", numbered, self._sql[statement].decode())
        name = next(self._names)
        self.db.execute(f"PREPARE {name} AS {text}".encode())
        values = compose.SQL(", ").join(compose.Literal(parameters[one]) for one in order)
        given = compose.SQL("({})").format(values) if order else compose.SQL("")
        query = compose.SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {}{}").format(compose.SQL(name), given)
        ((plan,),) = self.db.execute(query).fetchall()
        (top,) = json.loads(plan) if isinstance(plan, str) else plan
        self.seen = json.dumps(top)
        return int(top["Plan"]["Shared Hit Blocks"] + top["Plan"]["Shared Read Blocks"])


@pytest.fixture(scope="module", params=["never analysed", "vacuumed"])
def explained(request: pytest.FixtureRequest, filled: Place) -> Iterator[Explained]:
    if request.param == "vacuumed":
        filled.db.execute("VACUUM ANALYZE operations")
    one = Explained(filled)
    with one.db:
        yield one


def listings() -> Iterator[dict[str, Any]]:
    """Every combination of the arguments of ``list``."""
    for state in (None, State.COMPLETED, State.HELD, State.RUNNING):
        for method in (None, METHODS[3], RARE, "/shop.v1.None/Method"):
            for newest_first in (False, True):
                for stuck in (False, True):
                    yield {"state": state, "method": method, "newest_first": newest_first, "stuck": stuck}


def test_a_list_reads_about_what_it_returns(explained: Explained, filled: Place) -> None:
    """By state, method, age, direction, or stuck ones alone, from the beginning or from the middle."""
    ((now,),) = filled.db.execute("SELECT at FROM clock").fetchall()
    middle: datetime = now - timedelta(milliseconds=10 * ROWS // 2)
    for chosen in listings():
        most = OPEN_PAGES if chosen["stuck"] else FEW_PAGES
        for after, since in ((None, None), ((middle, b"\x80" * 16), None), (None, middle)):
            until = None if since is None else since + timedelta(hours=1)
            statement, parameters = reads.listing(ListRequest(after, PAGE, since=since, until=until, **chosen))
            assert explained.pages(statement, parameters | {"limit": PAGE}) < most, explained.seen


def test_a_search_by_name_reads_a_range(explained: Explained) -> None:
    """The beginning of a name leads to a range of the primary key."""
    found = {"low_name": b"\x12\x34" + bytes(14), "high_name": b"\x12\x34" + b"\xff" * 14, "limit": 2}
    assert explained.pages("find", found) < 20


def test_methods_are_found_by_seeks(explained: Explained) -> None:
    """The names of methods take a few pages for each method (6.4)."""
    assert explained.pages("methods", {}) < FEW_PAGES


def test_open_operations_are_counted_by_their_index(explained: Explained) -> None:
    """Without the completed ones, only the open ones are read."""
    assert explained.pages("count", {"completed": False}) < OPEN_PAGES


def test_completed_operations_are_counted_in_an_index(explained: Explained) -> None:
    """All entries of an index are read, and of the table only what the index can't tell."""
    explained.pages("count", {"completed": True})
    assert '"Node Type": "Seq Scan", "Relation Name": "operations"' not in explained.seen
    assert re.search('"Node Type": "Index Only Scan".{1,200}"Index Name": "operations_age"', explained.seen)
