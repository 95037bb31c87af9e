"""Reads and writes orders as rows: SQL on one side, messages on the other, without any rule of the service."""

from collections.abc import Iterable
from typing import Any

from shop.database import Database, statements
from shop.etags import etag
from shop.ids import new_id, now_us, timestamp
from shop.money import Amount, money
from shop.orders.v1.orders_pb2 import CreateOrderRequest, Order, OrderItem

_SQL = statements(__package__)


def insert_order(db: Database, asked: CreateOrderRequest) -> Order:
    """Creates a pending order."""
    order_id, now = new_id("order"), now_us()
    total = Amount.of(asked.total_amount).columns
    values = (order_id, asked.customer_id, *total, Order.STATE_PENDING)
    seq = db.execute(_SQL["insert_order"], (*values, now, now)).fetchall()[0][0]
    items = [(seq, position, item.sku, item.quantity) for position, item in enumerate(asked.items)]
    db.executemany(_SQL["insert_item"], items)
    return _order((seq, *values, 1, now, now), asked.items)


def read_order(db: Database, order_id: str) -> Order | None:
    """Reads the order with an id."""
    row = db.execute(_SQL["read_order"], (order_id,)).fetchone()
    return _order(row, _items(db, row[0])) if row else None


def lock_order(db: Database, order_id: str) -> Order | None:
    """Reads the order with an id, to change it: other transactions that would change it wait."""
    row = db.execute(_SQL["lock_order"], (order_id,)).fetchone()
    return _order(row, _items(db, row[0])) if row else None


def list_orders(db: Database, after: int, limit: int, *, most_bytes: int) -> tuple[list[tuple[int, Order]], bool]:
    """Reads orders behind a ``seq``, oldest first, each with its own ``seq``.

    It reads as many as fit into ``limit`` and ``most_bytes``, and always at least one. It also returns whether there
    are more.
    """
    found: list[tuple[int, Order]] = []
    for row in db.execute(_SQL["list_orders"], (after, limit + 1)).fetchall():
        if len(found) == limit or most_bytes <= 0:
            return found, True
        order = _order(row, _items(db, row[0]))
        most_bytes -= order.ByteSize()
        found.append((row[0], order))
    return found, False


def add_item(db: Database, order: Order, item: OrderItem) -> None:
    """Appends an item to an order."""
    db.execute(_SQL["add_item"], (item.sku, item.quantity, order.id))
    update_order(db, order, order.state)


def update_order(db: Database, order: Order, state: Order.State) -> None:
    """Writes an order's state, a new version and the time of the change."""
    db.execute(_SQL["update_order"], (state, now_us(), order.id))


def _items(db: Database, seq: int) -> list[OrderItem]:
    rows = db.execute(_SQL["read_items"], (seq,)).fetchall()
    return [OrderItem(sku=sku, quantity=quantity) for sku, quantity in rows]


def _order(row: tuple[Any, ...], items: Iterable[OrderItem]) -> Order:
    _, order_id, customer_id, currency, units, nanos, state, version, created, updated = row
    return Order(
        id=order_id,
        customer_id=customer_id,
        items=items,
        total_amount=money(currency, units, nanos),
        state=state,
        create_time=timestamp(created),
        update_time=timestamp(updated),
        etag=etag(order_id, version),
    )
