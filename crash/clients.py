"""The clients: they buy, retry with their keys until they have an answer, and record all answers."""

import asyncio
import random
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.type.money_pb2 import Money

from crash.files import Journal
from grpc_idempotency import refusal_of
from grpc_idempotency.aio import client_interceptors
from grpc_idempotency.retrying import AsyncRetrying
from shop.orders.v1.orders_pb2 import (
    AddItemRequest,
    CancelOrderRequest,
    CheckoutRequest,
    CreateOrderRequest,
    Order,
    OrderItem,
)
from shop.orders.v1.orders_pb2_grpc import OrderServiceStub
from shop.users.v1.users_pb2 import AddCreditRequest, CreateUserRequest, ReleaseReservationRequest, User
from shop.users.v1.users_pb2_grpc import UserServiceStub

_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
]


class Shopping:
    """The state that the clients share: channels, purchases, the history."""

    def __init__(
        self, orders: Sequence[str], users: Sequence[str], journal: Journal, *, seed: int, patience: float
    ) -> None:
        self._rng = random.Random(seed)
        self._journal = journal
        self._channels = {
            "orders": [self._channel(address) for address in orders],
            "users": [self._channel(address) for address in users],
        }
        self._retrying = AsyncRetrying(
            deadline=timedelta(seconds=patience),
            attempt_timeout=timedelta(seconds=1.5),
            backoff=timedelta(milliseconds=50),
            max_backoff=timedelta(milliseconds=400),
        )
        self._number = 0
        self.users: list[str] = []
        self.open: list[Order] = []
        """The orders that may still be pending."""
        self.stop = False

    @staticmethod
    def _channel(address: str) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(address, interceptors=client_interceptors(), options=_OPTIONS)

    async def close(self) -> None:
        for channels in self._channels.values():
            for channel in channels:
                await channel.close()

    async def begin(self, users: int) -> None:
        """Creates users, each with some credit."""
        await asyncio.gather(*(self._user(number) for number in range(users)))

    async def shop(self) -> None:
        """Runs one client until it is told to stop."""
        while not self.stop:
            await self._rng.choices(
                (self._create, self._add_item, self._some_credit, self._checkout, self._cancel, self._reuse),
                (5, 3, 2, 5, 1, 1),
            )[0]()
            await asyncio.sleep(self._rng.uniform(0, 0.05))

    async def release(self, reservation_id: str) -> None:
        """Releases the reservation of another client's checkout, as an intruder would."""
        await self._call("users", "ReleaseReservation", ReleaseReservationRequest(id=reservation_id))

    # Actions

    async def _user(self, number: int) -> None:
        user = User(display_name=f"User {number}", email=f"user{number}@example.com")
        made = await self._call("users", "CreateUser", CreateUserRequest(user=user))
        self.users.append(made.id)
        await self._credit(made.id)

    async def _create(self) -> None:
        key = str(uuid.uuid4())
        self._number += 1
        total = Money(currency_code="USD", units=self._rng.randint(1, 9), nanos=self._number)  # unique
        items = [OrderItem(sku=key, quantity=1)]
        request = CreateOrderRequest(customer_id=self._rng.choice(self.users), items=items, total_amount=total)
        order = await self._call("orders", "CreateOrder", request, key)
        if order is not None:
            self.open.append(order)

    async def _add_item(self) -> None:
        if self.open:
            key = str(uuid.uuid4())
            order = self._rng.choice(self.open)
            item = OrderItem(sku=key, quantity=1)
            await self._call("orders", "AddItem", AddItemRequest(order_id=order.id, item=item), key)

    async def _some_credit(self) -> None:
        await self._credit(self._rng.choice(self.users))

    async def _credit(self, user_id: str) -> None:
        amount = Money(currency_code="USD", units=self._rng.randint(1, 20))
        await self._call("users", "AddCredit", AddCreditRequest(user_id=user_id, amount=amount))

    async def _checkout(self) -> None:
        if self.open:
            order = self._rng.choice(self.open[-40:])
            if await self._call("orders", "Checkout", CheckoutRequest(order_id=order.id)) and order in self.open:
                self.open.remove(order)

    async def _cancel(self) -> None:
        if len(self.open) > 5:
            order = self.open.pop(0)
            await self._call("orders", "CancelOrder", CancelOrderRequest(id=order.id))

    async def _reuse(self) -> None:
        """Makes a mistake of clients: one key for two requests."""
        key = str(uuid.uuid4())
        user_id = self._rng.choice(self.users)
        one, other = (AddCreditRequest(user_id=user_id, amount=Money(currency_code="USD", units=n)) for n in (1, 2))
        await self._call("users", "AddCredit", one, key)
        try:
            await self._retrying.call(self._method("users", "AddCredit"), other, metadata=(("idempotency-key", key),))
            told = "OK"
        except grpc.aio.AioRpcError as error:
            refusal = refusal_of(error)
            told = refusal.reason.name if refusal is not None else error.code().name
        self._journal.write("reuse", key=key, told=told)

    # Calls

    async def _call(self, service: str, name: str, request: Message, key: str = "") -> Any:
        """Makes one logical call, with retries. Sometimes makes it twice at once, or repeats it after its answer."""
        key = key or str(uuid.uuid4())
        self._journal.write("call", key=key, method=name, request=request.SerializeToString().hex())
        times = self._rng.choices((1, 2), (5, 1))[0]
        answers = await asyncio.gather(*(self._ask(service, name, request, key) for _ in range(times)))
        if self._rng.random() < 0.25:
            answers.append(await self._ask(service, name, request, key))
        return answers[0]

    async def _ask(self, service: str, name: str, request: Message, key: str) -> Any:
        async def attempt() -> Any:
            self._journal.write("try", key=key)
            call = self._method(service, name)(request, metadata=(("idempotency-key", key),))
            try:
                reply = await call
            except grpc.aio.AioRpcError as error:
                self._heard(key, error.code(), error.details() or "", error.trailing_metadata(), None)
                raise
            self._heard(key, grpc.StatusCode.OK, "", await call.trailing_metadata(), reply)
            return reply

        try:
            return await self._retrying.call(attempt)
        except grpc.aio.AioRpcError:
            return None

    def _method(self, service: str, name: str) -> Callable[..., Any]:
        channel = self._rng.choice(self._channels[service])
        stub: Any = OrderServiceStub(channel) if service == "orders" else UserServiceStub(channel)
        method: Callable[..., Any] = getattr(stub, name)
        return method

    def _heard(self, key: str, code: grpc.StatusCode, details: str, trailers: Any, reply: Message | None) -> None:
        said = {name: value for name, value in trailers or ()}  # noqa: C416  # grpc's entries are tuples
        mark = said.pop("idempotency-status", "")
        said.pop("idempotency-created", None)
        shown = {name: value.hex() if isinstance(value, bytes) else value for name, value in sorted(said.items())}
        self._journal.write(
            "reply",
            key=key,
            code=code.name,
            details=details,
            trailers=shown,
            mark=mark,
            message=None if reply is None else reply.SerializeToString(deterministic=True).hex(),
        )
