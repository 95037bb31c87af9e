"""Proves from the files of a run that nothing went wrong: no effect twice, no different replies, no money made or lost.

It compares three sources. The clients' history shows what was promised, the databases show what is true, and the
servers' audit shows how it happened. Each finding begins with the name of the violated rule.
"""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from crash.files import AUDIT, HISTORY, ORDERS_DB, USERS_DB, events
from crash.server import OPAQUE
from shop.orders.v1.orders_pb2 import AddItemRequest, CancelOrderRequest, CheckoutRequest, CreateOrderRequest, Order
from shop.users.v1.users_pb2 import AddCreditRequest, Reservation, User

NANOS = 10**9
_STORED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "OUT_OF_RANGE", "ABORTED"}
_ANSWERED = {"executed", "replayed", "attached"}
_REPLIES: dict[str, type[Message]] = {
    **dict.fromkeys(("CreateOrder", "AddItem", "Checkout", "CancelOrder"), Order),
    **dict.fromkeys(("CreateUser", "AddCredit"), User),
    "ReleaseReservation": Reservation,
}
"""The types of the replies to the methods that clients call."""
_LEAST_ANSWER = 8.0
_MOMENT = 1e-6
_TOLERANCE = 0.05
"""The tolerance in seconds for two clocks, and for the delay of writing a line."""


@dataclass
class Call:
    """A client's key, and all answers to it."""

    key: str
    method: str
    request: bytes
    began: float
    tries: int = 0
    final: list[dict[str, Any]] = field(default_factory=list)
    answered: float | None = None
    unknown: bool = False
    """True if the client was told that the outcome is unknown."""

    @property
    def ok(self) -> bool:
        return any(reply["code"] == "OK" for reply in self.final)

    @property
    def reply(self) -> bytes:
        return bytes.fromhex(next(reply["message"] for reply in self.final if reply["code"] == "OK"))


class Checker:
    """Checks one run: its findings and figures."""

    def __init__(self, folder: Path, lease: float) -> None:
        self._lease = lease
        self._history = list(events(folder / HISTORY))
        self._audit = list(events(folder / AUDIT))
        self._orders = _Database(folder / ORDERS_DB)
        self._users = _Database(folder / USERS_DB)
        self._calls = self._heard()
        self.findings = [
            *self._replies(),
            *self._answers(),
            *self._waits(),
            *self._effects(),
            *self._checkouts(),
            *self._money(),
            *self._records(),
            *self._committed(),
            *self._ownership(),
        ]

    # The answers to clients

    def _heard(self) -> dict[str, Call]:
        calls: dict[str, Call] = {}
        for event in self._history:
            match event["e"]:
                case "call":
                    request = bytes.fromhex(event["request"])
                    calls[event["key"]] = Call(event["key"], event["method"], request, event["t"])
                case "try":
                    calls[event["key"]].tries += 1
                case "reply":
                    call = calls[event["key"]]
                    if event["mark"] in _ANSWERED and event["code"] in _STORED:
                        call.final.append(event)
                    elif "OUTCOME_UNKNOWN" in str(event["trailers"].get("grpc-status-details-bin", "")) or (
                        event["mark"] == "refused" and event["code"] == "FAILED_PRECONDITION"
                    ):
                        call.unknown = True
                    else:
                        continue
                    call.answered = call.answered or event["t"]
        return calls

    def _replies(self) -> Iterator[str]:
        """Checks that all replies of a key are identical, and belong to the key."""
        for call in self._calls.values():
            told = {(one["code"], one["details"], str(one["trailers"]), one["message"]) for one in call.final}
            if len(told) > 1:
                yield f"differing replies: {call.method} {call.key} got {len(told)}"
            if call.ok and not _fits(call):
                yield f"another's reply: {call.method} {call.key}"
        for event in self._history:
            if event["e"] == "reuse" and event["told"] != "KEY_REUSED":
                yield f"a reused key: {event['key']} was told {event['told']}"

    def _answers(self) -> Iterator[str]:
        """Checks that each call has an answer, and that only opaque methods answer that the outcome is unknown."""
        for call in self._calls.values():
            if call.answered is None:
                yield f"no answer: {call.method} {call.key} after {call.tries} tries"
            if call.unknown and not OPAQUE.endswith(call.method):
                yield f"unknown outcome: {call.method} {call.key} is not opaque"

    def _waits(self) -> Iterator[str]:
        """Checks that nothing is stuck: each answer comes soon after the last start of servers before it."""
        ups = [event["t"] for event in self._history if event["e"] in ("up", "pause")]
        for call in self._calls.values():
            if call.answered is not None:
                since = max([call.began, *(up for up in ups if up < call.answered)])
                if call.answered - since > self._lease + _LEAST_ANSWER:
                    yield f"stuck: {call.method} {call.key} for {call.answered - since:.1f} s"

    # The databases

    def _effects(self) -> Iterator[str]:
        """Checks that a key's effect exists once if its answer was OK, and not at all if it was refused."""
        made = Counter(sku for (sku,) in self._orders.rows("SELECT sku FROM shop_order_items"))
        orders = {row[0] for row in self._orders.rows("SELECT id FROM shop_orders")}
        for call in self._by("CreateOrder", "AddItem"):
            if made[call.key] != int(call.ok):
                said = "OK" if call.ok else "refused"
                yield f"effects: {call.method} {call.key} was {said}, and done {made[call.key]} times"
            if call.ok and Order.FromString(call.reply).id not in orders:
                yield f"effects: {call.method} {call.key} answered an order that is not there"
        states = dict(self._orders.rows("SELECT id, state FROM shop_orders"))
        for call in self._by("CancelOrder"):
            if call.ok and states[CancelOrderRequest.FromString(call.request).id] != Order.STATE_CANCELLED:
                yield f"effects: CancelOrder {call.key} was OK, and the order is not cancelled"
        users = self._users.rows("SELECT id FROM shop_users")
        if len(users) != sum(call.ok for call in self._by("CreateUser")):
            yield f"effects: there are {len(users)} users"

    def _checkouts(self) -> Iterator[str]:
        """Checks all or nothing: an order is confirmed if and only if exactly one reservation was captured for it."""
        spent: dict[tuple[str, int], list[int]] = defaultdict(list)
        for user_id, units, nanos, state in self._users.rows(
            "SELECT user_id, units, nanos, state FROM shop_reservations"
        ):
            spent[user_id, units * NANOS + nanos].append(state)
        paid = {CheckoutRequest.FromString(call.request).order_id for call in self._by("Checkout") if call.ok}
        for order_id, user_id, units, nanos, state in self._orders.rows(
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

    def _money(self) -> Iterator[str]:
        """Checks for each user: credits - captured = balance + active reservations."""
        credit: Counter[str] = Counter()
        for call in self._by("AddCredit"):
            if call.ok:
                asked = AddCreditRequest.FromString(call.request)
                credit[asked.user_id] += asked.amount.units * NANOS + asked.amount.nanos
        gone: Counter[str] = Counter()
        for user_id, units, nanos in self._users.rows(
            "SELECT user_id, units, nanos FROM shop_reservations WHERE state IN (1, 2)"
        ):
            gone[user_id] += units * NANOS + nanos
        for user_id, units, nanos in self._users.rows("SELECT id, balance_units, balance_nanos FROM shop_users"):
            wanted = credit[user_id] - gone[user_id]
            if units * NANOS + nanos != wanted:
                yield f"money: {user_id} has {units * NANOS + nanos}, and should have {wanted} billionths"

    def _records(self) -> Iterator[str]:
        """Checks that no operation is still running, and that only opaque ones are held."""
        for database in (self._orders, self._users):
            for method, state in database.rows(
                "SELECT method, state FROM grpc_idempotency_operations WHERE state <> 1"
            ):
                if (method, state) != (OPAQUE, 2):
                    yield f"stuck: an operation of {method} is left in state {state}"

    def _committed(self) -> Iterator[str]:
        """Checks that each stored outcome still exists, and that each OK reply is a stored one."""
        fences: dict[str, str] = {}
        replies: set[tuple[str, bytes]] = set()
        for database in (self._orders, self._users):
            for name, fence, method, message in database.rows(
                "SELECT lower(hex(name)), lower(hex(fence)), method, message FROM grpc_idempotency_operations"
                " WHERE state = 1"
            ):
                fences[name] = fence
                short = method.rpartition("/")[2]
                if message is not None and short in _REPLIES:
                    replies.add((short, _REPLIES[short].FromString(message).SerializeToString(deterministic=True)))
        stored: dict[str, set[str]] = defaultdict(set)
        for event in self._audit:
            if event["e"] == "done":
                stored[event["name"]].add(event["fence"])
        for name, known in stored.items():
            if fences.get(name) not in known:
                yield f"a lost outcome: operation {name} was completed, and its record is not there or another's"
        for call in self._calls.values():
            if call.ok and (call.method, call.reply) not in replies:
                yield f"not the committed reply: {call.method} {call.key}"

    # The audit

    def _ownership(self) -> Iterator[str]:
        """Checks claims, leases, fences, runs and steps, operation by operation."""
        fences: set[str] = set()
        stories: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for event in self._audit:
            stories[event["name"]].append(event)
            if (event["e"] == "claim" and not event["late"]) or (event["e"] == "run" and not event["claimed"]):
                if event["fence"] in fences:
                    yield f"a reused fence: {event['fence']}"
                fences.add(event["fence"])
        for name, story in stories.items():
            for finding in self._story(story):
                yield f"{finding}: operation {name}"

    def _story(self, story: list[dict[str, Any]]) -> Iterator[str]:
        """Checks one operation.

        A run with a claim owns the operation's record: it must run alone, and only it may store anything. A run without
        a claim (5.1) has no record. It may run beside other runs and after them, because it may have looked for a
        record before there was one. But it must not commit if a record exists.
        """
        owner, until = "", 0.0
        claimed: set[str] = set()
        unclaimed: set[str] = set()
        steps: set[str] = set()
        inside: dict[str, int] = {}
        done = False
        stands = False  # True if there certainly is a record that is not completed
        opaque = False
        ran = False
        overtaken = {event["over"]: event["t"] for event in story if event["e"] == "claim"}
        runners: dict[str, set[str]] = defaultdict(set)
        left = {event["fence"]: event["t"] for event in story if event["e"] == "left"}
        for event in story:
            if event["e"] == "began":
                runners[event["step"]].add(event["fence"])

        def order(event: dict[str, Any]) -> float:
            # A process that was paused after its claim or step was stored writes its line later, perhaps after the
            # process that took the operation over. The latter found the step, and so did not run it.
            what, fence = event["e"], event["fence"]
            late = fence in overtaken and (
                what == "claim"
                or (what == "step" and event["asked"] <= overtaken[fence] and runners[event["step"]] <= {fence})
            )
            moment = 2 * _MOMENT if what == "claim" else _MOMENT
            return float(min(event["t"], overtaken[fence] - moment) if late else event["t"])

        for event in sorted(story, key=order):
            what, fence = event["e"], event["fence"]
            if what == "claim":
                if done:
                    yield "claimed after its outcome was stored"
                if owner and event["t"] < until - _TOLERANCE:
                    yield f"a lease ignored: claimed {until - event['t']:.2f} s before its end"
                # If there was no record, the previous run released it. Its server may have died before it wrote that.
                if claimed and opaque and owner and not (ran and event["over"] is None):
                    yield "opaque, and run again"
                opaque, ran, stands = event["method"] == OPAQUE, False, True
                claimed.add(fence)
                unclaimed.discard(fence)  # its handler has reached a step
            elif what in ("run", "began") and fence != owner and fence in claimed and fence in overtaken:
                continue  # it was paused and continues without knowing of the take-over; it can change nothing
            elif what == "run" and not event["claimed"]:
                unclaimed.add(fence)
            elif what == "done" and fence in unclaimed:
                if stands:
                    yield "committed over a record that was not its own"
            elif what in ("run", "step", "done") and fence != owner:
                yield f"{what} under a fence that is not the owner's"
            if what in ("claim", "renew") and (what == "claim" or fence == owner):
                owner, until = fence, event["asked"] + self._lease
            elif what == "ran" and fence == owner:
                # Its end may be stored although the line is missing: its server was killed before it wrote it.
                until, ran, stands = 0.0, True, False
            elif what in ("release", "wait") and fence == owner:
                owner, stands = "", what == "wait"
                if what == "release":
                    steps.clear()
                    claimed.clear()
            elif what == "began" and event["step"] in steps:
                yield f"the step {event['step']} was run again"
            elif what in ("step", "finished"):
                steps.add(event["step"])
            elif what == "entered":
                # A run that was taken over does not know that, and one whose process was killed writes no end. Runs
                # without a claim know of each other only within one process.
                for other in inside.keys() - overtaken.keys():
                    known = inside[other] == event["pid"] or not {fence, other} & unclaimed
                    if known and left.get(other, 0.0) > event["t"]:
                        yield "run beside a handler that still runs"
                inside[fence] = event["pid"]
            elif what == "done":
                if done:
                    yield "completed twice"
                done = True

    # Figures

    @property
    def figures(self) -> dict[str, float]:
        """The figures of the run, by name: counts, and some times in seconds."""
        told = Counter(event["e"] for event in self._history)
        marks = Counter(event["mark"] for event in self._history if event["e"] == "reply")
        audit = Counter(event["e"] for event in self._audit)
        return {
            "kills": told["kill"],
            "pauses": told["pause"],
            "calls": len(self._calls),
            "attempts": told["try"],
            "retries": told["try"] - len(self._calls),
            "executed": marks["executed"],
            "replayed": marks["replayed"],
            "attached": marks["attached"],
            "handler runs": audit["run"],
            "runs without a claim": sum(event["e"] == "run" and not event["claimed"] for event in self._audit),
            "claimed at a step": sum(event["e"] == "claim" and event["late"] for event in self._audit),
            "commits refused": audit["refused"],
            "taken over": sum(event["e"] == "claim" and event["over"] is not None for event in self._audit),
            "undone steps": sum(event["e"] == "step" and event["step"].startswith("undo:") for event in self._audit),
            "rollbacks swallowed": audit["swallowed"],
            "steps cut off": audit["cut"],
            "def handlers cancelled": audit["cancelled"],
            "orders confirmed": self._orders.rows("SELECT count(*) FROM shop_orders WHERE state = 2")[0][0],
            "held": self._orders.rows("SELECT count(*) FROM grpc_idempotency_operations WHERE state = 2")[0][0],
            "seconds": round(self._history[-1]["t"] - self._history[0]["t"], 1),
            "longest wait after a start, s": round(self._longest(), 1),
        }

    @property
    def deaths(self) -> dict[str, int]:
        """The number of kills of servers, by the point at which they happened."""
        return dict(sorted(Counter(event["how"] for event in self._history if event["e"] == "kill").items()))

    def _longest(self) -> float:
        ups = [event["t"] for event in self._history if event["e"] in ("up", "pause")]
        return max(
            (
                call.answered - max([call.began, *(up for up in ups if up < call.answered)])
                for call in self._calls.values()
                if call.answered is not None
            ),
            default=0.0,
        )

    def _by(self, *methods: str) -> Iterator[Call]:
        return (call for call in self._calls.values() if call.method in methods)


class _Database:
    def __init__(self, path: Path) -> None:
        self._path = path

    def rows(self, sql: str) -> list[Any]:
        with closing(sqlite3.connect(self._path)) as db:
            return db.execute(sql).fetchall()


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
