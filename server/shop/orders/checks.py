"""Checks requests for orders."""

from shop.fields import LONGEST_ID, Fields
from shop.orders.v1.orders_pb2 import CreateOrderRequest, OrderItem

MOST_ITEMS = 1000
"""The most items of one order. Every answer has all of them."""
_LONGEST_SKU = 100


def check_order(fields: Fields, request: CreateOrderRequest, prefix: str = "") -> None:
    """Checks a request for an order. ``prefix`` goes before the names of its fields."""
    fields.text(f"{prefix}customer_id", request.customer_id, longest=LONGEST_ID)
    if not request.items:
        fields.bad(f"{prefix}items", "is required: at least one item")
    elif len(request.items) > MOST_ITEMS:
        fields.bad(f"{prefix}items", f"must have at most {MOST_ITEMS} items")
    for position, item in enumerate(request.items):
        check_item(fields, item, f"{prefix}items[{position}]")
    total = request.total_amount if request.HasField("total_amount") else None
    fields.money(f"{prefix}total_amount", total, zero=True)


def check_item(fields: Fields, item: OrderItem, name: str) -> None:
    """Checks an item, which is in the field ``name``."""
    fields.text(f"{name}.sku", item.sku, longest=_LONGEST_SKU)
    if item.quantity < 1:
        fields.bad(f"{name}.quantity", "must be 1 or more")
