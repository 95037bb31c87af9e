"""The rows and the reply of all handlers of CreateOrder, and the tables and statements on SQLite."""

import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from shop.orders.v1.orders_pb2 import CreateOrderRequest, Order


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """The tables of one kind of database, and their statements in its dialect."""

    new_order: str
    new_item: str
    create: Callable[[str], None]
    """Creates both tables in a database unless they exist."""
    count: Callable[[str], int]
    """Counts the orders of a database. Each must have its three items."""


def new(request: CreateOrderRequest) -> Order:
    """Makes the requested order, with a new id."""
    order = Order(
        id=uuid.uuid4().hex,
        customer_id=request.customer_id,
        items=request.items,
        total_amount=request.total_amount,
        state=Order.STATE_PENDING,
    )
    order.create_time.GetCurrentTime()
    return order


def row(order: Order) -> tuple[Any, ...]:
    """Returns the parameters of ``new_order``."""
    total = order.total_amount
    made_ms = order.create_time.ToMilliseconds()
    return order.id, order.customer_id, total.currency_code, total.units, total.nanos, made_ms


def item_rows(order: Order) -> list[tuple[Any, ...]]:
    """Returns the parameters of ``new_item``."""
    return [(order.id, item.sku, item.quantity) for item in order.items]


def orders_of(orders: int, items: int) -> int:
    """Returns the number of orders, and checks that each has its three items."""
    assert items == 3 * orders, f"{orders} orders have {items} items"
    return orders


_TABLES = """
CREATE TABLE orders (
    id TEXT PRIMARY KEY, customer_id TEXT, currency TEXT, units INTEGER, nanos INTEGER, made_ms INTEGER
);
CREATE TABLE items (id INTEGER PRIMARY KEY, order_id TEXT NOT NULL, sku TEXT NOT NULL, quantity INTEGER NOT NULL);
"""


def _create(database: str) -> None:
    with closing(sqlite3.connect(database)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'orders'").fetchone():
            db.executescript(_TABLES)


def _count(database: str) -> int:
    with closing(sqlite3.connect(database)) as db:
        return orders_of(*db.execute("SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM items)").fetchone())


SQLITE = Tables(
    new_order="INSERT INTO orders (id, customer_id, currency, units, nanos, made_ms) VALUES (?, ?, ?, ?, ?, ?)",
    new_item="INSERT INTO items (order_id, sku, quantity) VALUES (?, ?, ?)",
    create=_create,
    count=_count,
)
