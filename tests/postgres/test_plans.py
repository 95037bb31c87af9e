"""The plans of the store's statements: each reads the rows that it needs by an index, also of a new table."""

import os
import re
from datetime import datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest

from grpc_idempotency.stores._postgres.settings import Sessions, Settings
from grpc_idempotency.stores._postgres.sql import Sql

from .conftest import Make, Place

ROWS = 5_000
MANY = 64
NOW = datetime(2026, 11, 26, 12, tzinfo=timezone.utc)

ONE: dict[str, Any] = {
    "name": os.urandom(16),
    "fence": os.urandom(16),
    "over": os.urandom(16),
    "method": "/s.S/M",
    "raw": os.urandom(32),
    "canonical": os.urandom(32),
    "effects": 0,
    "streams": False,
    "lease": timedelta(seconds=15),
    "owner": "host:1",
    "request": b"request",
    "ttl": timedelta(hours=24),
    "status": 0,
    "retained": True,
    "details": b"",
    "trailers": b"trailers",
    "message": b"message",
    "reason": "held",
    "lapsed_only": True,
    "delay": timedelta(seconds=1),
    "failed_runs": 1,
    "failed_undos": 0,
    "step": b"charge",
    "position": 0,
    "undoable": False,
    "result": b"result",
    "method_crc": 1,
    "trace": b"trace",
    "held_only": False,
    "by": b"me",
    "action": "forgotten",
    "note": b"of no use",
    "low": NOW - timedelta(days=1),
    "high": NOW,
    "low_name": b"",
    "high_name": b"",
    "completed": True,
    "states": [0, 2, 3, 4],
    "stuck": True,
    "kept": timedelta(days=90),
    "limit": 32,
    "methods": ["/s.S/M"],
}
"""A value for each parameter of a statement."""
BATCHED = (
    *(
        "claim",
        "take_over",
        "complete",
        "renew",
        "release",
        "release_lapsed",
        "forget",
        "resolve",
        "hold",
        "wait",
        "undo",
        "record_step",
    ),
    *("get", "standing"),
)
SINGLE = (
    *("steps", "list", "list_newest", "list_open", "list_open_newest", "find", "count", "methods"),
    *("notes", "pending", "sweep"),
)
IN_TRANSACTIONS = ("look", "look_again", "has_step", "complete_one", "record_one_step")


@pytest.fixture
async def sql(make: Make, place: Place) -> Sql:
    """The statements, for tables with many completed operations that were never analysed."""
    store = make()
    await store.open()
    place.db.execute("ALTER TABLE operations SET (autovacuum_enabled = off)")
    place.db.execute(
        "INSERT INTO operations (name, state, fence, effects, streams, created_at, completed_at, expires_at, status, "
        "method, method_crc, raw, message) "
        "SELECT uuid_send(gen_random_uuid()), 1, uuid_send(gen_random_uuid()), 0, false, "
        "now() - n * interval '1 second', now(), now() + interval '1 day', 0, '/s.S/M', 1, '\\x00', '\\x00' "
        "FROM generate_series(1, %s) AS n",
        (ROWS,),
    )
    place.db.execute("INSERT INTO steps SELECT name, created_at, '\\x61', 1, 0, false, now(), '\\x00' FROM operations")
    return Sql(place.schema)


def scans(
    db: psycopg.Connection[Any], statement: bytes, parameters: dict[str, Any], *, by_name: bool = True
) -> list[str]:
    """The lines of the plan that read a whole table of the store's; or an index that is not by name."""
    wanted = {name: value for name, value in parameters.items() if f"%({name})b".encode() in statement}
    plan = [line for (line,) in db.execute(b"EXPLAIN " + statement, wanted).fetchall()]
    whole = "Seq Scan on (operations|steps)"
    return [line for line in plan if re.search(f"{whole}|operations_(open|age|expiry)" if by_name else whole, line)]


def settings(place: Place) -> Settings:
    return Settings(
        conninfo=place.url,
        schema=place.schema,
        lock_timeout=5,
        max_connections=1,
        transaction_pooler=False,
        migrate=False,
    )


def test_the_stores_statements_read_no_whole_table(sql: Sql, place: Place) -> None:
    """One operation and a batch are looked up by their names, whatever the planner assumes of the table."""
    with psycopg.connect(**settings(place).arguments) as db:
        Sessions(settings(place)).begin(db, own=True)
        assert db.execute("SHOW jit").fetchone() == ("off",)  # it would compile plans whose cost is high without reason
        for statement in BATCHED:
            for count in (1, MANY):
                many = {name: [value] * count for name, value in ONE.items()}
                assert scans(db, sql[statement], many) == [], statement
        for statement in SINGLE:
            assert scans(db, sql[statement], ONE, by_name=False) == [], statement


def test_statements_in_handlers_transactions_read_no_whole_table(sql: Sql, place: Place) -> None:
    """They need no settings of the planner, which are the handlers'."""
    for statement in IN_TRANSACTIONS:
        assert scans(place.db, sql[statement], ONE) == [], statement
