"""The proof: counts the rows of the database file with SQLite alone, read-only, without any code of the library."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple


class Line(NamedTuple):
    """One line of the ledger: something to count."""

    what: str
    sql: str
    expected: int


LINES: Sequence[Line] = (
    Line("orders of cust_123", "SELECT count(*) FROM shop_orders WHERE customer_id = 'cust_123'", 1),
    Line(
        "items of that order",
        "SELECT count(*) FROM shop_order_items JOIN shop_orders ON seq = order_seq WHERE customer_id = 'cust_123'",
        2,
    ),
    Line("orders of cust_456, called 50 times", "SELECT count(*) FROM shop_orders WHERE customer_id = 'cust_456'", 1),
    Line("orders of all customers", "SELECT count(*) FROM shop_orders", 2),
    Line("users", "SELECT count(*) FROM shop_users", 1),
    Line("changes of that user, of 3 sent", "SELECT sum(version - 1) FROM shop_users", 2),
    Line("operations, one for each key", "SELECT count(*) FROM grpc_idempotency_operations", 5),
)


def counted(database: Path) -> list[tuple[Line, int]]:
    """Returns each line with its count. Raises :class:`sqlite3.Error` if the file can't be read."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        return [(line, connection.execute(line.sql).fetchone()[0]) for line in LINES]
