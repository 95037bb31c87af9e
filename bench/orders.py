"""The tables, the statements and the reply of all handlers of CreateOrder."""

import sqlite3
import uuid
from contextlib import closing
from typing import Any

from shop.orders.v1.orders_pb2 import CreateOrderRequest, Order

TABLES = """
CREATE TABLE orders (
    id TEXT PRIMARY KEY, customer_id TEXT, currency TEXT, units INTEGER, nanos INTEGER, made_ms INTEGER
);
CREATE TABLE items (id INTEGER PRIMARY KEY, order_id TEXT NOT NULL, sku TEXT NOT NULL, quantity INTEGER NOT NULL);
"""
NEW_ORDER = "INSERT INTO orders (id, customer_id, currency, units, nanos, made_ms) VALUES (?, ?, ?, ?, ?, ?)"
NEW_ITEM = "INSERT INTO items (order_id, sku, quantity) VALUES (?, ?, ?)"


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
    """Returns the parameters of ``NEW_ORDER``."""
    total = order.total_amount
    made_ms = order.create_time.ToMilliseconds()
    return order.id, order.customer_id, total.currency_code, total.units, total.nanos, made_ms


def item_rows(order: Order) -> list[tuple[Any, ...]]:
    """Returns the parameters of ``NEW_ITEM``."""
    return [(order.id, item.sku, item.quantity) for item in order.items]


def create_tables(database: str) -> None:
    """Creates both tables unless they exist."""
    with closing(sqlite3.connect(database)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'orders'").fetchone():
            db.executescript(TABLES)


def count(database: str) -> int:
    """Counts the orders. Each must have its three items."""
    with closing(sqlite3.connect(database)) as db:
        orders, items = db.execute("SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM items)").fetchone()
    assert items == 3 * orders, f"{orders} orders have {items} items"
    return int(orders)
