"""Checks the answers that clients got: the same to each key, one for each call, and soon."""

from collections.abc import Iterator

from crash.evidence import Call, Evidence
from crash.server import OPAQUE
from shop.orders.v1.orders_pb2 import AddItemRequest, CancelOrderRequest, CheckoutRequest, CreateOrderRequest, Order
from shop.users.v1.users_pb2 import AddCreditRequest, User

_PATIENCE = 8.0
"""Seconds in which a call is answered once no lease stands in its way."""


def replies(evidence: Evidence) -> Iterator[str]:
    """Checks that all replies of a key are identical, and belong to the key."""
    for call in evidence.calls.values():
        told = {(one["code"], one["details"], str(one["trailers"]), one["message"]) for one in call.final}
        if len(told) > 1:
            yield f"differing replies: {call.method} {call.key} got {len(told)}"
        if call.ok and not _fits(call):
            yield f"another's reply: {call.method} {call.key}"
    for event in evidence.history:
        if event["e"] == "reuse" and event["told"] != "KEY_REUSED":
            yield f"a reused key: {event['key']} was told {event['told']}"


def answers(evidence: Evidence) -> Iterator[str]:
    """Checks that each call has an answer, and that only opaque methods answer that the outcome is unknown."""
    for call in evidence.calls.values():
        if call.answered is None:
            yield f"no answer: {call.method} {call.key} after {call.tries} tries"
        if call.unknown and not OPAQUE.endswith(call.method):
            yield f"unknown outcome: {call.method} {call.key} is not opaque"


def waits(evidence: Evidence) -> Iterator[str]:
    """Checks that nothing is stuck: each answer comes soon after the last start of servers before it."""
    for call in evidence.calls.values():
        waited = evidence.waited(call)
        if waited is not None and waited > evidence.lease + _PATIENCE:
            yield f"stuck: {call.method} {call.key} for {waited:.1f} s"


def _fits(call: Call) -> bool:
    """Returns ``True`` if an OK reply can belong to this call."""
    match call.method:
        case "CreateOrder":
            asked, order = CreateOrderRequest.FromString(call.request), Order.FromString(call.reply)
            return (list(asked.items), asked.total_amount) == (list(order.items), order.total_amount)
        case "AddItem":
            item = AddItemRequest.FromString(call.request)
            order = Order.FromString(call.reply)
            return (order.id, order.items[-1]) == (item.order_id, item.item)
        case "AddCredit":
            return User.FromString(call.reply).id == AddCreditRequest.FromString(call.request).user_id
        case "Checkout":
            order = Order.FromString(call.reply)
            expected = (CheckoutRequest.FromString(call.request).order_id, Order.STATE_CONFIRMED)
            return (order.id, order.state) == expected
        case "CancelOrder":
            order = Order.FromString(call.reply)
            expected = (CancelOrderRequest.FromString(call.request).id, Order.STATE_CANCELLED)
            return (order.id, order.state) == expected
        case _:
            return True
