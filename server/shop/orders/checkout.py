"""Checkout: pays for an order over two services, all or nothing (DESIGN.md 5.2, 9.1).

| step    | does                                              | is undone by                                    |
|---------|---------------------------------------------------|-------------------------------------------------|
| begin   | the order is this checkout's: STATE_RESERVING     | STATE_PENDING                                   |
| ask     | mints the key under which credit will be reserved | reserving again under it, releasing what is got |
| reserve | ReserveCredit                                     | ReleaseReservation, or AddCredit if captured    |
| accept  | STATE_CAPTURING                                   | STATE_RESERVING                                 |
| capture | CaptureReservation                                |                                                 |

The reply's own transaction makes it STATE_CONFIRMED: nothing is confirmed that was not paid, and nothing that was
confirmed is undone. A step whose result was not kept is run again, and is the same operation at the user service.

Given up in the middle of a call, it can't know whether that took effect. So what undoes a call never relies on its
answer: "ask" finds out what a reservation became whose id was never heard, and "reserve" asks for a release, which is
refused where a capture came through. Then the payment is returned.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import grpc
import grpc.aio
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from grpc_idempotency import Database
from grpc_idempotency.aio import Operation
from shop.database import Transactions
from shop.errors import DOMAIN, Reason, Refused
from shop.ids import new_id
from shop.orders.changes import Changes
from shop.orders.state import existing, move, pending
from shop.orders.v1.orders_pb2 import Order
from shop.users.v1.users_pb2 import (
    AddCreditRequest,
    CaptureReservationRequest,
    GetUserRequest,
    ReleaseReservationRequest,
    Reservation,
    ReserveCreditRequest,
)

if TYPE_CHECKING:  # a name for type checkers alone
    from shop.users.v1.users_pb2_grpc import UserServiceAsyncStub

_TIMEOUT = 10.0
"""Seconds for each call."""

R = TypeVar("R")


class Checkout:
    """One run of a checkout."""

    def __init__(
        self,
        operation: Operation,
        store: Transactions,
        users: "UserServiceAsyncStub",
        changes: Changes,
        order_id: str,
    ) -> None:
        self._operation = operation
        self._store = store
        self._users = users
        self._changes = changes
        self._order_id = order_id
        self._reservation: Reservation | None = None
        """What was reserved, as far as it was heard."""

    async def run(self) -> Order:
        """Pays for the order and answers it; raises :class:`Refused`."""
        step = self._operation.step
        order: Order = await step("begin", self._begin, undo=self._reopen, transaction=True)
        self._changes.announce(order.id)
        if order.total_amount.units or order.total_amount.nanos:
            await self._pay(order)
        else:
            await step("customer", lambda: self._look_up(order.customer_id))
        confirmed = await self._store.transaction(lambda db: self._move(db, Order.STATE_CONFIRMED))
        self._changes.announce(order.id)
        return confirmed

    async def _pay(self, order: Order) -> None:
        step = self._operation.step
        asked: ReserveCreditRequest = await step("ask", lambda: _asking(order), undo=self._withdraw)
        self._reservation = reservation = await step("reserve", lambda: self._reserve(asked), undo=self._give_back)
        await step("accept", self._accept, undo=self._reject, transaction=True)
        self._changes.announce(order.id)
        await step("capture", lambda: self._capture(reservation))

    # The order: in transactions

    def _begin(self, db: Database) -> Order:
        """From here on nobody else changes the order."""
        order = move(db, pending(existing(db, self._order_id)), Order.STATE_RESERVING)
        order.ClearField("items")  # they may be many, and the step's result is kept
        return order

    def _reopen(self, db: Database, _: Order) -> None:
        self._move(db, Order.STATE_PENDING)

    def _accept(self, db: Database) -> None:
        self._move(db, Order.STATE_CAPTURING)

    def _reject(self, db: Database, _: None) -> None:
        self._move(db, Order.STATE_RESERVING)

    def _move(self, db: Database, state: Order.State) -> Order:
        return move(db, existing(db, self._order_id), state)

    # The wallet: at the user service

    async def _look_up(self, customer_id: str) -> None:
        """There is nothing to pay; but only a user checks out."""
        try:
            await _told(self._users.GetUser, GetUserRequest(id=customer_id))
        except _Told as told:
            raise _refusal(told, customer_id) from None

    async def _reserve(self, asked: ReserveCreditRequest) -> Reservation:
        try:
            return await _told(self._users.ReserveCredit, asked)
        except _Told as told:
            raise _refusal(told, asked.user_id) from None

    async def _withdraw(self, asked: ReserveCreditRequest) -> None:
        """Sees to it that no reservation stands which was never heard of."""
        if self._reservation is not None:
            return  # it was heard of, and given back
        try:
            await self._release(await self._reserve(asked))
        except Refused as refused:
            if refused.reason is Reason.USERS_UNAVAILABLE:
                raise

    async def _give_back(self, reservation: Reservation) -> None:
        if await self._release(reservation) == "captured":
            # That was a capture whose answer was never heard.
            await _told(self._users.AddCredit, AddCreditRequest(user_id=reservation.user_id, amount=reservation.amount))

    async def _release(self, reservation: Reservation) -> str:
        """Releases it, and answers what became of it in the end."""
        try:
            await _told(self._users.ReleaseReservation, ReleaseReservationRequest(id=reservation.id))
        except _Told as told:
            if told.reason is not Reason.RESERVATION_NOT_ACTIVE:
                raise
            return told.variables["state"]
        return "released"

    async def _capture(self, reservation: Reservation) -> None:
        try:
            await _told(self._users.CaptureReservation, CaptureReservationRequest(id=reservation.id))
        except _Told as told:
            state = told.variables.get("state", "lost")
            if state != "captured":  # whoever has captured it, the order is paid for
                raise Refused(Reason.CAPTURE_REFUSED, id=reservation.id, state=state) from None


class _Told(Exception):
    """What the user service refuses for good, in its own words."""

    def __init__(self, reason: Reason, variables: dict[str, str]) -> None:
        super().__init__(f"the user service refused: {reason.name} {variables}")
        self.reason = reason
        self.variables = variables


def _asking(order: Order) -> ReserveCreditRequest:
    # A key of its own instead of a derived one, so that another step can make the same call.
    return ReserveCreditRequest(user_id=order.customer_id, amount=order.total_amount, request_id=new_id("checkout"))


async def _told(call: Callable[..., Awaitable[R]], request: object) -> R:
    """Calls; raises :class:`_Told` for what is refused for good, and :class:`Refused` for what may pass."""
    try:
        return await call(request, timeout=_TIMEOUT)
    except grpc.aio.AioRpcError as error:
        info = _info(error)
        if error.code() in _FOR_GOOD and info is not None:
            raise _Told(Reason[info.reason], dict(info.metadata)) from None
        raise Refused(Reason.USERS_UNAVAILABLE, status=error.code().name) from error


_FOR_GOOD = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.OUT_OF_RANGE)


def _info(error: grpc.aio.AioRpcError) -> ErrorInfo | None:
    """Why the shop refused a call; ``None`` where it was not the shop, or for a reason that is not known here."""
    packed = dict(error.trailing_metadata()).get("grpc-status-details-bin")
    for detail in Status.FromString(packed).details if isinstance(packed, bytes) else ():
        info = ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN and info.reason in Reason.__members__:
            return info
    return None


def _refusal(told: _Told, customer_id: str) -> Refused:
    """What the caller of Checkout is told of what its customer's wallet refused."""
    if told.reason is Reason.USER_NOT_FOUND:
        return Refused(Reason.CUSTOMER_NOT_FOUND, id=customer_id)
    return Refused(told.reason, **told.variables)
