"""``python -m bench.listing``: measures what operators ask of a store with many operations, beside targets.

It starts no server of gRPC. The operations are copies of a few real ones, with names and times of their own.
"""

import argparse
import json
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import psycopg
from rich import box
from rich.console import Console
from rich.table import Table

from bench import report
from bench.arguments import positive
from bench.engines import Engine, started
from bench.places import folder_on_disk
from bench.rows import HEADINGS, Row
from grpc_idempotency import Code, Effects, Outcome, State, store_from_url
from grpc_idempotency.operating import counts, operations
from grpc_idempotency.operator_store import OperatorStore
from grpc_idempotency.records import Claim, Fingerprint

METHODS = [f"/shop.orders.v1.OrderService/Method{number:02}" for number in range(20)]
_PAGE = 50
_TARGET = 300
_TTL = timedelta(days=365)
_TABLES = {"sqlite": "grpc_idempotency_operations", "postgresql": "idempotency.operations"}
_OWN = {
    "sqlite": {
        "name": "randomblob(16)",
        "fence": "randomblob(16)",
        "created_ms": "created_ms + n",
        "completed_ms": "completed_ms + n",
        "expires_at": "expires_at + n",
    },
    "postgresql": {
        "name": "uuid_send(gen_random_uuid())",
        "fence": "uuid_send(gen_random_uuid())",
        "created_at": "created_at + n * interval '1 ms'",
        "completed_at": "completed_at + n * interval '1 ms'",
        "expires_at": "expires_at + n * interval '1 ms'",
    },
}
"""The columns that differ from row to row, as SQL. All others are copied."""


def main() -> int:
    """Measures, prints the figures, and returns 0, whether the targets are met or not."""
    arguments = _arguments()
    console = Console()
    with ExitStack() as ends:
        folder = Path(ends.enter_context(folder_on_disk()))
        engine = ends.enter_context(closing(started(arguments.store, folder)))
        place = engine.place("listing")
        url = f"sqlite:///{place}" if arguments.store == "sqlite" else place
        _put(url)
        _multiply(engine, place, arguments.keys)
        store = cast(OperatorStore, ends.enter_context(closing(store_from_url(url))))
        rows = [_row(name, ask, store, arguments) for name, ask in QUESTIONS.items()]
    table = Table(title=f"What operators ask of {engine.title}", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in HEADINGS:
        right = heading in ("figure", "target")
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading == "what")
    for row in rows:
        table.add_row(*(report.coloured(cell) for cell in row.cells()))
    console.print(table)
    if arguments.json:
        told = {**report.machine(), "store": arguments.store, "engine": engine.title, "keys": arguments.keys}
        values = {"conditions": told, "figures": [row.as_json() for row in rows]}
        Path(arguments.json).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.listing",
        description="Measures lists, searches and counts of operators in a store with many operations.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    number = positive(int)
    parser.add_argument("--store", choices=list(_OWN), default="sqlite", help="where operations are kept")
    parser.add_argument("--keys", type=number, default=1_000_000, help="how many there are")
    parser.add_argument("--times", type=number, default=15, help="how often each question is asked")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to this file")
    return parser.parse_args()


def _page(**chosen: Any) -> Callable[[OperatorStore], object]:
    return lambda store: list(operations(store, **chosen, limit=_PAGE))


QUESTIONS: dict[str, Callable[[OperatorStore], object]] = {
    f"the newest {_PAGE}": _page(newest_first=True),
    f"the oldest {_PAGE}": _page(),
    f"the newest {_PAGE} of a method": _page(method=METHODS[3], newest_first=True),
    f"the newest {_PAGE} of the methods of a glob": _page(method="/shop.*/Method1?", newest_first=True),
    "all that are held": _page(state=State.HELD),
    "all that are stuck, of a method": _page(stuck=True, method=METHODS[3]),
    "two by the beginning of their names": lambda store: store.find("ab", limit=2),
    "the names of methods": lambda store: store.methods(),
    "the counts by method and state": counts,
    "the counts of what is not completed": lambda store: store.count(completed=False),
}


def _row(name: str, ask: Callable[[OperatorStore], object], store: OperatorStore, arguments: argparse.Namespace) -> Row:
    took = []
    for _ in range(arguments.times + 1):
        began = time.perf_counter()
        ask(store)
        took.append(time.perf_counter() - began)
    first, *others = took
    return Row(
        name=name.replace(" ", "-"),
        what=name,
        value=statistics.median(others) * 1e3,
        unit="ms",
        target=_TARGET,
        note=f"{min(others) * 1e3:.1f}-{max(others) * 1e3:.1f}; the first time {first * 1e3:.1f}",
    )


def _put(url: str) -> None:
    """Keeps one completed operation of each method, and one that is held."""
    outcome = Outcome(status=Code.OK, message=bytes(200))
    with closing(store_from_url(url)) as store:
        for number, method in enumerate([*METHODS, METHODS[0]]):
            prints = Fingerprint(raw=bytes(32), canonical=bytes(32))
            claim = Claim(
                name=number.to_bytes(16, "big"),
                method=method,
                fence=number.to_bytes(16, "little"),
                fingerprint=prints,
                effects=Effects.OPAQUE,
                lease=timedelta(minutes=1),
            )
            store.claim(claim)
            if number < len(METHODS):
                store.complete(claim.name, claim.fence, outcome, _TTL)
            else:
                store.hold(claim.name, claim.fence, "its server is gone")


def _multiply(engine: Engine, place: str, count: int) -> None:
    """Copies the completed operations in turn, each copy a millisecond later than the one before."""
    if engine.store == "sqlite":
        with closing(sqlite3.connect(place, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous = OFF")
            db.execute("PRAGMA cache_size = -200000")
            columns = [
                name for _, name, *_ in db.execute(f"PRAGMA table_info({_TABLES[engine.store]})") if name != "id"
            ]
            for statement in _copying(engine.store, columns, count):
                db.execute(statement)
        return
    with closing(psycopg.connect(place, autocommit=True)) as server:
        asked = f"SELECT attname FROM pg_attribute WHERE attrelid = '{_TABLES[engine.store]}'::regclass AND attnum > 0"
        columns = [name for (name,) in server.execute(asked.encode()).fetchall()]
        for statement in (*_copying(engine.store, columns, count), "VACUUM (ANALYZE)", "CHECKPOINT"):
            server.execute(statement.encode())


def _copying(store: str, columns: list[str], count: int) -> tuple[str, str]:
    """Returns the statements that copy the completed operations, in a dialect that both engines take."""
    table, own = _TABLES[store], _OWN[store]
    values = ", ".join(own.get(name, name) for name in columns)
    return (
        f"CREATE TEMPORARY TABLE models AS "
        f"SELECT *, row_number() OVER (ORDER BY name) - 1 AS place FROM {table} WHERE state = 1",
        f"INSERT INTO {table} ({', '.join(columns)}) "
        f"WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count}) "
        f"SELECT {values} FROM numbers JOIN models ON place = n % {len(METHODS)}",
    )


if __name__ == "__main__":
    sys.exit(main())
