"""The acts in which an order is paid for: the shop's Checkout, in steps over both services."""

import asyncio

import grpc.aio

from shop.demo.calls import Reply, new_key, resend, send, shown_key
from shop.demo.scene import PATIENCE, Scene, dollars, order, shown_money, shown_order, state_of
from shop.orders.v1.orders_pb2 import CheckoutRequest, GetOrderRequest, Order
from shop.orders.v1.orders_pb2_grpc import OrderServiceStub
from shop.users.v1.users_pb2 import AddCreditRequest, CreateUserRequest, GetUserRequest, User
from shop.users.v1.users_pb2_grpc import UserServiceStub

_CREDIT = dollars(10000)


class Payments:
    """Plays them for one customer, who has a credit of 100.00 USD.

    Args:
        scene: What is on the stage.
        channel: The client's channel.
    """

    def __init__(self, scene: Scene, channel: grpc.aio.Channel) -> None:
        self._scene = scene
        self._stage = scene.stage
        self._orders, self._users = OrderServiceStub(channel), UserServiceStub(channel)
        self._customer = ""

    async def refused_and_undone(self) -> None:
        """An order is too expensive: the payment has begun, and is undone."""
        self._stage.act("A payment fails, and is undone")
        grace = User(display_name="Grace Hopper", email="grace@example.com")
        created = await send(self._users.CreateUser, CreateUserRequest(user=grace), new_key())
        self._customer = "" if created.message is None else created.message.id
        await send(self._users.AddCredit, AddCreditRequest(user_id=self._customer, amount=_CREDIT), new_key())
        self._stage.says("client", f"has {shown_money(_CREDIT)} of credit at the user service, as {self._customer}")
        expensive, key = await self._ordered(("SKU004", 3)), new_key()
        first, second = await self._checked_out(expensive, key), await self._checked_out(expensive, key)
        now, left = await self._now(expensive)
        self._stage.says(self._scene.host.name, f"keeps {now.id}, {state_of(now)}; the credit is {left}")
        undone = (now.state, left) == (Order.STATE_PENDING, shown_money(_CREDIT))
        self._stage.promise(
            "The payment was refused, and its first step undone: the order is pending, and no credit is gone.",
            first.status == "FAILED_PRECONDITION" and undone,
        )
        same = (second.status, second.details) == (first.status, first.details)
        self._stage.promise("A repeat got the same refusal, without another try.", same and second.how == "replayed")

    async def killed_in_the_middle(self) -> None:
        """The server dies when it has reserved the credit. Another process goes on from there."""
        scene = self._scene
        affordable, key = await self._ordered(("SKU005", 1)), new_key()
        request = CheckoutRequest(order_id=affordable.id)
        scene.inner.withhold()
        self._stage.says("client", f"Checkout {affordable.id}", shown_key(key))
        call = asyncio.create_task(send(self._orders.Checkout, request, key))
        await self._reserved(call)
        async with scene.past_the_network() as direct:
            left = await self._credit(direct)
        self._stage.says(
            scene.host.name, f"has reserved the amount: the credit is {left}; the order is not confirmed yet"
        )
        killed = await scene.host.kill()
        scene.inner.cut()
        self._stage.says(scene.host.name, f"process {killed} is ended by kill -9, in the middle of the call")
        scene.got(await call)
        await scene.replace_the_killed()
        self._stage.says("client", "sends the same call again, with the same key", shown_key(key))
        reply = await asyncio.wait_for(resend(self._orders.Checkout, request, key), PATIENCE)
        scene.got(reply)
        now, left = await self._now(affordable)
        self._stage.says(scene.host.name, f"keeps {now.id}, {state_of(now)}; the credit is {left}")
        self._stage.promise(
            "Another process finished the payment, from the step at which the killed one had stopped.",
            reply.message == now and now.state == Order.STATE_CONFIRMED,
        )
        self._stage.promise("It was paid once.", left == shown_money(dollars(4000)))

    async def _ordered(self, *items: tuple[str, int]) -> Order:
        wanted, key = order(self._customer, *items), new_key()
        self._stage.says("client", f"CreateOrder {shown_order(wanted)}", shown_key(key))
        reply = await send(self._orders.CreateOrder, wanted, key)
        self._scene.got(reply)
        return Order() if reply.message is None else reply.message

    async def _checked_out(self, order: Order, key: str) -> Reply[Order]:
        self._stage.says("client", f"Checkout {order.id}", shown_key(key))
        reply = await send(self._orders.Checkout, CheckoutRequest(order_id=order.id), key)
        self._scene.got(reply)
        return reply

    async def _reserved(self, call: "asyncio.Task[Reply[Order]]") -> None:
        """Waits until the user service has answered with the reservation, or the call has ended without one."""

        async def answered() -> None:
            while b"reservation-" not in self._scene.inner.withheld:
                await self._scene.inner.more_withheld()

        waiting = asyncio.create_task(answered())
        await asyncio.wait((waiting, call), timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()

    async def _now(self, order: Order) -> tuple[Order, str]:
        """Returns the order, and the customer's credit, as they are now."""
        async with self._scene.past_the_network() as direct:
            now = await OrderServiceStub(direct).GetOrder(GetOrderRequest(id=order.id), timeout=PATIENCE)
            return now, await self._credit(direct)

    async def _credit(self, direct: grpc.aio.Channel) -> str:
        user = await UserServiceStub(direct).GetUser(GetUserRequest(id=self._customer), timeout=PATIENCE)
        return shown_money(user.balance)
