"""An operator's program that lists held operations and resolves them."""

from grpc_idempotency import Code, Outcome, Record, State
from grpc_idempotency.operating import completed, never_happened, open_store, operations
from shop.orders.v1.orders_pb2 import Order


def resolve_all(url: str, find: dict[str, Order]) -> list[Record]:
    """Resolves held operations. ``find`` has the order that an operation made, by its name; the others made none."""
    with open_store(url) as store:
        held = list(operations(store, state=State.HELD, method="/shop.orders.v1.OrderService/CreateOrder"))
        for record in held:
            order = find.get(record.name.hex())
            if order is None:
                never_happened(store, record, by="resolve_all", reason="it made no order")
            else:
                outcome = Outcome(status=Code.OK, message=order.SerializeToString())
                completed(store, record, outcome, by="resolve_all", reason="it made this order")
    return held
