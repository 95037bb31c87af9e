"""The proof: what is counted at the end of the story."""

from collections.abc import Sequence
from typing import NamedTuple

from shop.demo.places import Place


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
)
_OPERATIONS = 5


class Counted(NamedTuple):
    """A line with what was found."""

    what: str
    expected: int
    found: int


def counted(place: Place) -> list[Counted]:
    """Counts all lines. Raises the error of the place's driver if it can't be read."""
    rows = [Counted(line.what, line.expected, place.count(line.sql)) for line in LINES]
    return [*rows, Counted("operations, one for each key", _OPERATIONS, place.operations())]
