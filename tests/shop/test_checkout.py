"""Checkout over two services: all or nothing, whatever happens in between."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from google.type.money_pb2 import Money
from tests.shop.helpers import Client, create_order, create_user, open_shop, reason, trailer, usd

from grpc_idempotency import refusal_of
from shop.config import Config
from shop.errors import Reason, Refused
from shop.orders.checkout import _told
from shop.orders.v1.orders_pb2 import (
    AddItemRequest,
    CancelOrderRequest,
    CheckoutRequest,
    GetOrderRequest,
    Order,
    WatchOrderRequest,
)
from shop.orders.v1.orders_pb2_grpc import OrderServiceStub
from shop.server import serving
from shop.users.service import UserService
from shop.users.v1.users_pb2 import AddCreditRequest, DeleteUserRequest, GetUserRequest, ReleaseReservationRequest
from shop.users.v1.users_pb2_grpc import UserServiceStub

if TYPE_CHECKING:  # names for type checkers alone
    from shop.users.v1.users_pb2_grpc import UserServiceAsyncStub

ENGINES = ["sqlite", "postgresql", "redis"]


class Buyer:
    """A user with credit, and an order of theirs."""

    def __init__(self, client: Client, users: "UserServiceAsyncStub", user_id: str, order: Order) -> None:
        self._client = client
        self._users = users
        self.user_id = user_id
        self.order = order

    def checkout(self, key: str = "c") -> Any:
        return self._client.orders.Checkout(CheckoutRequest(order_id=self.order.id, request_id=key), timeout=30)

    async def state(self) -> Order.State:
        return (await self._client.orders.GetOrder(GetOrderRequest(id=self.order.id))).state

    async def balance(self) -> Money:
        return (await self._users.GetUser(GetUserRequest(id=self.user_id))).balance

    async def comes_to(self, *states: Order.State, within: float = 15) -> None:
        """Waits for the order's state, without calling Checkout."""

        async def come() -> None:
            while await self.state() not in states:  # noqa: ASYNC110  # to hear of it otherwise would be another test
                await asyncio.sleep(0.05)

        await asyncio.wait_for(come(), within)


async def buyer(
    client: Client, *, credit: int = 100, total: int = 30, users: "UserServiceAsyncStub | None" = None
) -> Buyer:
    users = users or client.users
    user = await users.CreateUser(create_user())
    if credit:
        await users.AddCredit(AddCreditRequest(user_id=user.id, amount=usd(credit)))
    order = await client.orders.CreateOrder(create_order(customer_id=user.id, total_amount=usd(total)))
    return Buyer(client, users, user.id, order)


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value


async def reservations(client: Client, columns: str = "units, state") -> list[Any]:
    """All reservations, oldest first."""
    sql = f"SELECT {columns} FROM shop_reservations ORDER BY seq"
    return await client.shop.data.read(lambda db: db.execute(sql).fetchall())


ACTIVE, CAPTURED, RELEASED = 1, 2, 3


async def test_a_checkout_pays_for_the_order(client: Client) -> None:
    """The order is confirmed, the total spent, and the reply is the order."""
    ada = await buyer(client)
    paid = await ada.checkout()
    assert (paid.id, paid.state) == (ada.order.id, Order.STATE_CONFIRMED)
    assert paid == await client.orders.GetOrder(GetOrderRequest(id=ada.order.id))
    assert await ada.balance() == usd(70)
    assert await reservations(client) == [(30, CAPTURED)]


async def test_a_replay_pays_nothing(client: Client) -> None:
    """A second call with the key gets the first reply; one with another key learns that the order is not pending."""
    ada = await buyer(client)
    paid = await ada.checkout()
    again = ada.checkout()
    assert await again == paid
    assert trailer(await again.trailing_metadata(), "idempotency-status") == "replayed"
    assert reason(await refused(ada.checkout("another"))) == "ORDER_NOT_PENDING"
    assert await reservations(client) == [(30, CAPTURED)]


async def test_it_needs_a_key(client: Client) -> None:
    """Without a key nothing could be kept, so nothing is begun."""
    ada = await buyer(client)
    error = await refused(client.orders.Checkout(CheckoutRequest(order_id=ada.order.id)))
    refusal = refusal_of(error)
    assert refusal is not None
    assert refusal.reason.name == "KEY_REQUIRED"
    assert await ada.state() == Order.STATE_PENDING


async def test_not_enough_credit(client: Client) -> None:
    """Nothing is spent, the order is pending, and a checkout with another key succeeds once there is credit."""
    ada = await buyer(client, credit=29)
    error = await refused(ada.checkout())
    assert (error.code(), reason(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "BALANCE_TOO_SMALL")
    assert (await ada.state(), await ada.balance()) == (Order.STATE_PENDING, usd(29))
    again = await refused(ada.checkout())
    assert (again.details(), trailer(again.trailing_metadata(), "idempotency-status")) == (error.details(), "replayed")
    await client.users.AddCredit(AddCreditRequest(user_id=ada.user_id, amount=usd(1)))
    assert (await ada.checkout("richer")).state == Order.STATE_CONFIRMED
    assert await ada.balance() == usd(0)


@pytest.mark.parametrize("total", [30, 0])
async def test_the_customer_is_no_user(client: Client, total: int) -> None:
    """A precondition of the order, not a missing resource of the request: the order stays pending."""
    ada = await buyer(client, credit=0, total=total)
    await client.users.DeleteUser(DeleteUserRequest(id=ada.user_id))
    error = await refused(ada.checkout())
    assert (error.code(), reason(error)) == (grpc.StatusCode.FAILED_PRECONDITION, "CUSTOMER_NOT_FOUND")
    assert await ada.state() == Order.STATE_PENDING


async def test_another_currency(client: Client) -> None:
    """A wallet pays in its own currency alone."""
    ada = await buyer(client, credit=0)
    await client.users.AddCredit(AddCreditRequest(user_id=ada.user_id, amount=Money(currency_code="EUR", units=99)))
    assert reason(await refused(ada.checkout())) == "CURRENCY_DIFFERS"
    assert await ada.state() == Order.STATE_PENDING


async def test_there_is_no_such_order(client: Client) -> None:
    """An order that is not there can't be paid for."""
    error = await refused(client.orders.Checkout(CheckoutRequest(order_id="order-1", request_id="k")))
    assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "ORDER_NOT_FOUND")
    error = await refused(client.orders.Checkout(CheckoutRequest(request_id="l")))
    assert reason(error) == "INVALID_REQUEST"


async def test_nothing_to_pay(client: Client) -> None:
    """An order that costs nothing is confirmed without a reservation."""
    ada = await buyer(client, credit=0, total=0)
    assert (await ada.checkout()).state == Order.STATE_CONFIRMED
    assert await reservations(client) == []


async def test_one_of_many_checkouts_wins(client: Client) -> None:
    """Ten checkouts of one order under ten keys: one is paid, nine are refused."""
    ada = await buyer(client)
    ended = await asyncio.gather(*(ada.checkout(f"k{n}") for n in range(10)), return_exceptions=True)
    won = [one for one in ended if isinstance(one, Order)]
    lost = [reason(one) for one in ended if isinstance(one, grpc.aio.AioRpcError)]
    assert ([one.state for one in won], len(lost)) == ([Order.STATE_CONFIRMED], 9)
    assert set(lost) <= {"ORDER_NOT_PENDING", "ORDER_IN_CHECKOUT"}
    assert (await ada.balance(), await reservations(client)) == (usd(70), [(30, CAPTURED)])


async def test_a_wallet_pays_no_more_than_it_holds(client: Client) -> None:
    """Eight orders of one user at once, with credit for three: three are paid, five are pending."""
    ada = await buyer(client, credit=100, total=30)
    made = [create_order(customer_id=ada.user_id, total_amount=usd(30)) for _ in range(7)]
    orders = [ada.order, *[await client.orders.CreateOrder(one) for one in made]]
    calls = [client.orders.Checkout(CheckoutRequest(order_id=one.id, request_id=one.id)) for one in orders]
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(one, Order) for one in ended) == 3
    states = [(await client.orders.GetOrder(GetOrderRequest(id=one.id))).state for one in orders]
    assert sorted(states) == [Order.STATE_PENDING] * 5 + [Order.STATE_CONFIRMED] * 3
    assert (await ada.balance(), await reservations(client)) == (usd(10), [(30, CAPTURED)] * 3)


# In between


class Gate:
    """Holds up calls of one method of the user service."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    def before(self, method: Callable[..., Any]) -> Callable[..., Any]:
        async def handler(service: Any, request: Any, context: Any) -> Any:
            self.reached.set()
            await self.open.wait()
            return await method(service, request, context)

        return handler


@pytest.mark.parametrize(
    ("method", "state"),
    [("ReserveCredit", Order.STATE_RESERVING), ("CaptureReservation", Order.STATE_CAPTURING)],
)
async def test_what_happens_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, state: Order.State
) -> None:
    """While a checkout is under way the order says how far it is, and nobody else changes it."""
    gate = Gate()
    monkeypatch.setattr(UserService, method, gate.before(getattr(UserService, method)))
    async with open_shop(tmp_path / "shop.db") as client:
        ada = await buyer(client)
        watched: list[Order.State] = []

        async def watch() -> None:
            async for order in client.orders.WatchOrder(WatchOrderRequest(id=ada.order.id)):
                watched.append(order.state)

        watching = asyncio.create_task(watch())
        paying = asyncio.ensure_future(ada.checkout())
        await gate.reached.wait()
        assert await ada.state() == state
        item = AddItemRequest(order_id=ada.order.id, item=ada.order.items[0])
        for call in (client.orders.AddItem(item), client.orders.CancelOrder(CancelOrderRequest(id=ada.order.id))):
            assert reason(await refused(call)) == "ORDER_IN_CHECKOUT"
        gate.open.set()
        assert (await paying).state == Order.STATE_CONFIRMED
        await watching
        assert watched[-1] == Order.STATE_CONFIRMED
        assert state in watched


async def test_a_capture_that_is_refused_for_good_undoes_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has released the reservation: the order is pending again, the credit back, the failure kept."""
    gate = Gate()
    monkeypatch.setattr(UserService, "CaptureReservation", gate.before(UserService.CaptureReservation))
    async with open_shop(tmp_path / "shop.db") as client:
        ada = await buyer(client)
        paying = asyncio.ensure_future(ada.checkout())
        await gate.reached.wait()
        await client.users.ReleaseReservation(ReleaseReservationRequest(id=(await reservations(client, "id"))[0][0]))
        gate.open.set()
        assert reason(await refused(paying)) == "CAPTURE_REFUSED"
        assert reason(await refused(ada.checkout())) == "CAPTURE_REFUSED"
        assert (await ada.state(), await ada.balance()) == (Order.STATE_PENDING, usd(100))
        assert await reservations(client) == [(30, RELEASED)]


@pytest.mark.parametrize("method", ["ReserveCredit", "CaptureReservation"])
async def test_a_failure_for_good_right_after_an_unclear_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The call took effect, its answer never came, and the checkout is given up: nothing is spent in the end."""
    monkeypatch.setattr("shop.server._MOST_TRIES", 1)
    monkeypatch.setattr("shop.orders.checkout._told", losing(method))
    async with open_shop(tmp_path / "shop.db") as client:
        ada = await buyer(client)
        error = await refused(ada.checkout())
        assert error.code() is grpc.StatusCode.ABORTED
        assert (await ada.state(), await ada.balance()) == (Order.STATE_PENDING, usd(100))
        expected = {"ReserveCredit": [(30, RELEASED)], "CaptureReservation": [(30, CAPTURED)]}
        assert await reservations(client) == expected[method]


def losing(method: str) -> Callable[..., Any]:
    """Calls the user service, and loses the answer to the first call of a method."""
    told_in_truth = _told
    lost: list[str] = []

    async def told(call: Any, request: Any) -> Any:
        reply = await told_in_truth(call, request)
        if method.encode() in call._method and not lost:
            lost.append(method)
            raise Refused(Reason.USERS_UNAVAILABLE, status="UNAVAILABLE")
        return reply

    return told


# Over two processes


@asynccontextmanager
async def users_at(address: str, folder: Path) -> AsyncIterator[None]:
    """A process that serves users alone."""
    settings = {"SHOP_LISTEN": address, "SHOP_STORE": f"sqlite:///{folder / 'users.db'}", "SHOP_SERVICES": "users"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shop", env=os.environ | settings, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        assert (await asyncio.wait_for(process.stdout.readline(), 30)).decode() == f"listening on {address}\n"
        yield
    finally:
        process.kill()
        await process.communicate()


async def test_the_user_service_is_away_for_a_while(tmp_path: Path) -> None:
    """A checkout waits for it, is told so to who asks, and is completed by itself when it is back."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = Config(port=0, store=f"sqlite:///{tmp_path / 'orders.db'}", services=frozenset({"orders"}), users=address)
    async with (
        serving(config) as shop,
        grpc.aio.insecure_channel(shop.address) as channel,
        grpc.aio.insecure_channel(address, options=[("grpc.max_reconnect_backoff_ms", 500)]) as channel_to_users,
    ):
        client = Client(shop=shop, channel=channel, orders=OrderServiceStub(channel), users=UserServiceStub(channel))
        users = UserServiceStub(channel_to_users)
        async with users_at(address, tmp_path):
            ada = await buyer(client, users=users)
        request = CheckoutRequest(order_id=ada.order.id, request_id="c")
        away = await refused(client.orders.Checkout(request, timeout=0.5))
        assert away.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        assert await ada.state() == Order.STATE_RESERVING
        async with users_at(address, tmp_path):
            await ada.comes_to(Order.STATE_CONFIRMED)
            assert (await ada.checkout()).state == Order.STATE_CONFIRMED
            assert await ada.balance() == usd(70)
        elsewhere = await refused(client.users.GetUser(GetUserRequest(id="user-1")))
        assert elsewhere.code() is grpc.StatusCode.UNIMPLEMENTED
