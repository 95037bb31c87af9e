"""Checkout: pays for an order over two services, all or nothing (5.2, 9.1).

| step    | does                                              | is undone by                                    |
|---------|---------------------------------------------------|-------------------------------------------------|
| begin   | the order is this checkout's: STATE_RESERVING     | STATE_PENDING                                   |
| ask     | makes the key under which credit will be reserved | reserving again under it, then releasing that   |
| reserve | ReserveCredit                                     | ReleaseReservation, or AddCredit if captured    |
| accept  | STATE_CAPTURING                                   | STATE_RESERVING                                 |
| capture | CaptureReservation                                |                                                 |

The reply's own transaction makes it STATE_CONFIRMED: an unpaid order is never confirmed, and a confirmed one is never
undone. A step whose result was not kept is run again, and is the same operation at the user service.

If a checkout is given up in the middle of a call, it is unknown whether the call took effect. So an undo never relies
on the answer of the call. The undo of "ask" finds the reservation whose id never arrived. The undo of "reserve" asks
for a release, which is refused if a capture took effect; then the payment is returned.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import grpc
import grpc.aio
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from grpc_idempotency.aio import Operation
from shop.database import Data, Database
from shop.errors import DOMAIN, Reason, Refused
from shop.ids import new_id
from shop.orders.changes import Changes
from shop.orders.state import locked, move, pending
from shop.orders.v1.orders_pb2 import Order
from shop.users.v1.users_pb2 import (
    AddCreditRequest,
    CaptureReservationRequest,
    GetUserRequest,
    ReleaseReservationRequest,
    Reservation,
    ReserveCreditRequest,
)

if TYPE_CHECKING:  # a name only for type checkers
    from shop.users.v1.users_pb2_grpc import UserServiceAsyncStub

_TIMEOUT = 10.0
"""The timeout of each call, in seconds."""

R = TypeVar("R")


class Checkout:
    """One run of a checkout."""

    def __init__(
        self,
        operation: Operation,
        data: Data,
        users: "UserServiceAsyncStub",
        changes: Changes,
        order_id: str,
    ) -> None:
        self._operation = operation
        self._data = data
        self._users = users
        self._changes = changes
        self._order_id = order_id
        self._reservation: Reservation | None = None
        """The reservation, once its id is known."""

    async def run(self) -> Order:
        """Pays for the order and returns it. Raises :class:`Refused`."""
        step = self._operation.step
        order = await self._data.step(self._operation, "begin", self._begin, undo=self._reopen)
        self._changes.announce(order.id)
        if order.total_amount.units or order.total_amount.nanos:
            await self._pay(order)
        else:
            await step("customer", lambda: self._look_up(order.customer_id))
        confirmed = await self._data.transaction(lambda db: self._move(db, Order.STATE_CONFIRMED))
        self._changes.announce(order.id)
        return confirmed

    async def _pay(self, order: Order) -> None:
        step = self._operation.step
        asked: ReserveCreditRequest = await step("ask", lambda: _asking(order), undo=self._withdraw)
        self._reservation = reservation = await step("reserve", lambda: self._reserve(asked), undo=self._give_back)
        await self._data.step(self._operation, "accept", self._accept, undo=self._reject)
        self._changes.announce(order.id)
        await step("capture", lambda: self._capture(reservation))

    # The order, in transactions

    def _begin(self, db: Database) -> Order:
        """Takes the order: from here on only this checkout changes it."""
        order = move(db, pending(locked(db, self._order_id)), Order.STATE_RESERVING)
        order.ClearField("items")  # there may be many, and the step's result is kept
        return order

    def _reopen(self, db: Database, _: Order) -> None:
        self._move(db, Order.STATE_PENDING)

    def _accept(self, db: Database) -> None:
        self._move(db, Order.STATE_CAPTURING)

    def _reject(self, db: Database, _: None) -> None:
        self._move(db, Order.STATE_RESERVING)

    def _move(self, db: Database, state: Order.State) -> Order:
        return move(db, locked(db, self._order_id), state)

    # The wallet, at the user service

    async def _look_up(self, customer_id: str) -> None:
        """Checks that the customer is a user. Nothing has to be paid."""
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
        """Releases a reservation whose id never arrived, if there is one."""
        if self._reservation is not None:
            return  # its id arrived, and it was released
        try:
            await self._release(await self._reserve(asked))
        except Refused as refused:
            if refused.reason is Reason.USERS_UNAVAILABLE:
                raise

    async def _give_back(self, reservation: Reservation) -> None:
        if await self._release(reservation) == "captured":
            # A capture took effect, and its answer was lost.
            await _told(self._users.AddCredit, AddCreditRequest(user_id=reservation.user_id, amount=reservation.amount))

    async def _release(self, reservation: Reservation) -> str:
        """Releases the reservation, and returns its final state."""
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
            if state != "captured":  # the order is paid for, whichever call has captured it
                raise Refused(Reason.CAPTURE_REFUSED, id=reservation.id, state=state) from None


class _Told(Exception):
    """The user service refused a call for good. The message is its own."""

    def __init__(self, reason: Reason, variables: dict[str, str]) -> None:
        super().__init__(f"the user service refused: {reason.name} {variables}")
        self.reason = reason
        self.variables = variables


def _asking(order: Order) -> ReserveCreditRequest:
    # A key of its own instead of a derived key, so that another step can make the same call.
    return ReserveCreditRequest(user_id=order.customer_id, amount=order.total_amount, request_id=new_id("checkout"))


async def _told(call: Callable[..., Awaitable[R]], request: object) -> R:
    """Makes a call. Raises :class:`_Told` if it was refused for good, and :class:`Refused` if the failure may pass."""
    try:
        return await call(request, timeout=_TIMEOUT)
    except grpc.aio.AioRpcError as error:
        info = _info(error)
        if error.code() in _FOR_GOOD and info is not None:
            raise _Told(Reason[info.reason], dict(info.metadata)) from None
        raise Refused(Reason.USERS_UNAVAILABLE, status=error.code().name) from error


_FOR_GOOD = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.OUT_OF_RANGE)


def _info(error: grpc.aio.AioRpcError) -> ErrorInfo | None:
    """Returns the shop's reason for an error; ``None`` if the error is not the shop's, or its reason is unknown."""
    packed = dict(error.trailing_metadata()).get("grpc-status-details-bin")
    for detail in Status.FromString(packed).details if isinstance(packed, bytes) else ():
        info = ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN and info.reason in Reason.__members__:
            return info
    return None


def _refusal(told: _Told, customer_id: str) -> Refused:
    """Returns the error of Checkout for a refusal by the customer's wallet."""
    if told.reason is Reason.USER_NOT_FOUND:
        return Refused(Reason.CUSTOMER_NOT_FOUND, id=customer_id)
    return Refused(told.reason, **told.variables)
