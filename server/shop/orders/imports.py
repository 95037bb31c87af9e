"""Reads the stream of an import to its end before the import begins."""

from collections.abc import AsyncIterable

from shop.errors import Context, Reason, Refused
from shop.fields import Fields
from shop.orders.checks import check_order
from shop.orders.v1.orders_pb2 import CreateOrderRequest

MOST_ORDERS = 1000
MOST_ITEMS = 10_000
_COUNT = "idempotency-message-count"


async def whole_import(requests: AsyncIterable[CreateOrderRequest], context: Context) -> list[CreateOrderRequest]:
    """Returns all messages of an import, checked.

    To a server a stream that its client broke off looks like a complete one. So if a client announces how many messages
    there are, all of them have to come, with or without a key.
    """
    announced = _announced(context)
    asked, came = await _checked(requests)
    if announced is not None and came != announced:
        raise Refused(Reason.IMPORT_TRUNCATED, came=str(came), announced=str(announced))
    return asked


async def _checked(requests: AsyncIterable[CreateOrderRequest]) -> tuple[list[CreateOrderRequest], int]:
    """Reads and checks the messages. It reads on after an invalid message, so that all violations are reported at once.

    Too many messages or items end it.
    """
    asked: list[CreateOrderRequest] = []
    items = position = 0
    with Fields() as fields:
        async for request in requests:
            items += len(request.items)
            if position == MOST_ORDERS or items > MOST_ITEMS:
                fields.bad("messages", f"must be at most {MOST_ORDERS} in one call, with at most {MOST_ITEMS} items")
                break
            before = fields.count
            check_order(fields, request, f"messages[{position}].")
            if fields.count == before:
                asked.append(request)
            position += 1
    return asked, position


def _announced(context: Context) -> int | None:
    values = {value for name, value in context.invocation_metadata() or () if name == _COUNT}
    if not values:
        return None
    value = values.pop()
    with Fields() as fields:
        if values or not isinstance(value, str) or not (value.isascii() and value.isdigit() and len(value) < 10):
            fields.bad(_COUNT, "must be the number of messages that the call sends")
    return int(value)
