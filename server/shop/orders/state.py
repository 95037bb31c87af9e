"""The rules of an order's state, for use in a transaction."""

from shop.database import Database
from shop.errors import Reason, Refused
from shop.orders import rows
from shop.orders.v1.orders_pb2 import Order

FINAL = (Order.STATE_CONFIRMED, Order.STATE_CANCELLED)
"""The states in which an order never changes again."""


def existing(db: Database, order_id: str) -> Order:
    """Returns the order. Raises :class:`Refused` if there is none."""
    return _found(rows.read_order(db, order_id), order_id)


def locked(db: Database, order_id: str) -> Order:
    """Returns the order, which only this transaction can change now. Raises :class:`Refused` if there is none."""
    return _found(rows.lock_order(db, order_id), order_id)


def _found(order: Order | None, order_id: str) -> Order:
    if order is None:
        raise Refused(Reason.ORDER_NOT_FOUND, id=order_id)
    return order


def pending(order: Order) -> Order:
    """Returns the order. Raises :class:`Refused` unless it is pending."""
    if order.state in FINAL:
        state = Order.State.Name(order.state).removeprefix("STATE_").lower()
        raise Refused(Reason.ORDER_NOT_PENDING, id=order.id, state=state)
    if order.state != Order.STATE_PENDING:
        raise Refused(Reason.ORDER_IN_CHECKOUT, id=order.id)
    return order


def move(db: Database, order: Order, state: Order.State) -> Order:
    """Writes the order's next state, and returns the order."""
    rows.update_order(db, order, state)
    return existing(db, order.id)
