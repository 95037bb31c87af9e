"""The proof: what is counted at the end of the story."""

from typing import NamedTuple

from shop.demo.places import Place


class Counted(NamedTuple):
    """One line of the ledger: what was counted, the number that is expected, and the one that was found."""

    what: str
    expected: int
    found: int


_ORDERS = "SELECT count(*) FROM shop_orders"
_ITEMS = "SELECT count(*) FROM shop_order_items JOIN shop_orders ON seq = order_seq"
_CENTS = "SELECT coalesce(sum(balance_units * 100 + balance_nanos / 10000000), 0) FROM shop_users"


def counted(place: Place) -> list[Counted]:
    """Counts all lines. Raises the error of the place's driver if it can't be read."""
    paid = place.transactional  # otherwise there is no act with an order that is paid for
    lines = (
        ("orders of cust_123", f"{_ORDERS} WHERE customer_id = 'cust_123'", 1),
        ("items of that order", f"{_ITEMS} WHERE customer_id = 'cust_123'", 2),
        ("orders of cust_456, called 50 times", f"{_ORDERS} WHERE customer_id = 'cust_456'", 1),
        ("orders of all customers", _ORDERS, 3 + paid),
        ("users", "SELECT count(*) FROM shop_users", 2),
        (
            "changes of the renamed user, of 3 sent",
            "SELECT coalesce(sum(version - 1), 0) FROM shop_users WHERE display_name = 'Ada Lovelace'",
            2,
        ),
        ("payments", "SELECT count(*) FROM shop_reservations", int(paid)),
        ("cents of credit left, of 10000", _CENTS, 10000 - 6000 * paid),
    )
    rows = [Counted(what, expected, place.count(sql)) for what, sql, expected in lines]
    return [*rows, Counted("operations, one for each key", _OPERATIONS + _PAYING * paid, place.operations())]


_OPERATIONS = 10
"""Two orders; a user and three renames; a customer, credit, an order and its refused payment, at both services."""
_PAYING = 4
"""Another order, and its payment: Checkout, and at the user service its reservation and the capture of that."""
