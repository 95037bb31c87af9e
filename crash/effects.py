"""Checks what is in the databases: each effect once, all or nothing, no money made or lost."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from google.protobuf.message import Message

from crash.evidence import Evidence
from crash.server import OPAQUE
from grpc_idempotency import State
from shop.orders.v1.orders_pb2 import CancelOrderRequest, CheckoutRequest, Order
from shop.users.v1.users_pb2 import AddCreditRequest, Reservation, User

NANOS = 10**9
_REPLIES: dict[str, type[Message]] = {
    **dict.fromkeys(("CreateOrder", "AddItem", "Checkout", "CancelOrder"), Order),
    **dict.fromkeys(("CreateUser", "AddCredit"), User),
    "ReleaseReservation": Reservation,
}
"""The types of the replies to the methods that clients call."""


def effects(evidence: Evidence) -> Iterator[str]:
    """Checks that a key's effect exists once if its answer was OK, and not at all if it was refused."""
    made = Counter(sku for (sku,) in evidence.orders.rows("SELECT sku FROM shop_order_items"))
    orders = {row[0] for row in evidence.orders.rows("SELECT id FROM shop_orders")}
    for call in evidence.by("CreateOrder", "AddItem"):
        if made[call.key] != int(call.ok):
            said = "OK" if call.ok else "refused"
            yield f"effects: {call.method} {call.key} was {said}, and done {made[call.key]} times"
        if call.ok and Order.FromString(call.reply).id not in orders:
            yield f"effects: {call.method} {call.key} answered an order that is not there"
    states = dict(evidence.orders.rows("SELECT id, state FROM shop_orders"))
    for call in evidence.by("CancelOrder"):
        if call.ok and states[CancelOrderRequest.FromString(call.request).id] != Order.STATE_CANCELLED:
            yield f"effects: CancelOrder {call.key} was OK, and the order is not cancelled"
    users = evidence.users.rows("SELECT id FROM shop_users")
    if len(users) != sum(call.ok for call in evidence.by("CreateUser")):
        yield f"effects: there are {len(users)} users"


def checkouts(evidence: Evidence) -> Iterator[str]:
    """Checks all or nothing: an order is confirmed if and only if exactly one reservation was captured for it."""
    spent: dict[tuple[str, int], list[int]] = defaultdict(list)
    for user_id, units, nanos, state in evidence.users.rows(
        "SELECT user_id, units, nanos, state FROM shop_reservations"
    ):
        spent[user_id, units * NANOS + nanos].append(state)
    paid = {CheckoutRequest.FromString(call.request).order_id for call in evidence.by("Checkout") if call.ok}
    for order_id, user_id, units, nanos, state in evidence.orders.rows(
        "SELECT id, customer_id, units, nanos, state FROM shop_orders"
    ):
        kept = Counter(spent.pop((user_id, units * NANOS + nanos), []))
        if kept[1]:
            yield f"all or nothing: {order_id} has a reservation that is neither captured nor released"
        if kept[2] != (state == Order.STATE_CONFIRMED):
            yield f"all or nothing: {order_id} is in state {state}, and was paid {kept[2]} times"
        if state in (Order.STATE_RESERVING, Order.STATE_CAPTURING):
            yield f"all or nothing: {order_id} is left in state {state}"
        if (order_id in paid) != (state == Order.STATE_CONFIRMED):
            yield f"all or nothing: {order_id} is in state {state}, and its checkout was {order_id in paid}"
    if spent:
        yield f"all or nothing: {len(spent)} reservations are for no order"


def money(evidence: Evidence) -> Iterator[str]:
    """Checks for each user: credits - captured = balance + active reservations."""
    credit: Counter[str] = Counter()
    for call in evidence.by("AddCredit"):
        if call.ok:
            asked = AddCreditRequest.FromString(call.request)
            credit[asked.user_id] += asked.amount.units * NANOS + asked.amount.nanos
    gone: Counter[str] = Counter()
    for user_id, units, nanos in evidence.users.rows(
        "SELECT user_id, units, nanos FROM shop_reservations WHERE state IN (1, 2)"
    ):
        gone[user_id] += units * NANOS + nanos
    for user_id, units, nanos in evidence.users.rows("SELECT id, balance_units, balance_nanos FROM shop_users"):
        wanted = credit[user_id] - gone[user_id]
        if units * NANOS + nanos != wanted:
            yield f"money: {user_id} has {units * NANOS + nanos}, and should have {wanted} billionths"


def records(evidence: Evidence) -> Iterator[str]:
    """Checks that no operation is left running, unless only its client can run it again; only opaque ones are held."""
    for database in (evidence.orders, evidence.users):
        for one in database.stored:
            if one.state is not State.COMPLETED and not one.left and (one.method, one.state) != (OPAQUE, State.HELD):
                yield f"stuck: an operation of {one.method} is left {one.state.value}"


def committed(evidence: Evidence) -> Iterator[str]:
    """Checks that each stored outcome still exists, and that each OK reply is a stored one."""
    fences: dict[str, str] = {}
    replies: set[tuple[str, bytes]] = set()
    for database in (evidence.orders, evidence.users):
        for one in database.stored:
            if one.state is not State.COMPLETED:
                continue
            fences[one.name] = one.fence
            short = one.method.rpartition("/")[2]
            if one.message is not None and short in _REPLIES:
                replies.add((short, _REPLIES[short].FromString(one.message).SerializeToString(deterministic=True)))
    stored: dict[str, set[str]] = defaultdict(set)
    for event in evidence.audit:
        if event["e"] == "done":
            stored[event["name"]].add(event["fence"])
    for name, known in stored.items():
        if fences.get(name) not in known:
            yield f"a lost outcome: operation {name} was completed, and its record is not there or another's"
    for call in evidence.calls.values():
        if call.ok and (call.method, call.reply) not in replies:
            yield f"not the committed reply: {call.method} {call.key}"
