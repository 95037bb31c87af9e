"""The story: each act shows one promise of the project with an ordinary client, and checks it."""

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import grpc.aio
from google.protobuf.field_mask_pb2 import FieldMask

from shop.demo import ledger
from shop.demo.calls import Reply, new_key, resend, send, shown_key
from shop.demo.doubt import nobody_can_know
from shop.demo.payments import Payments
from shop.demo.scene import PATIENCE, Scene, order, shown_order
from shop.orders.v1.orders_pb2 import ListOrdersRequest, Order
from shop.orders.v1.orders_pb2_grpc import OrderServiceStub
from shop.users.v1.users_pb2 import CreateUserRequest, GetUserRequest, UpdateUserRequest, User
from shop.users.v1.users_pb2_grpc import UserServiceStub

if TYPE_CHECKING:
    from shop.orders.v1.orders_pb2_grpc import OrderServiceAsyncStub

_BURST = 50


class Story:
    """Plays all acts, one after the other."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._stage = scene.stage
        self._key = new_key()
        self._order = order("cust_123", ("SKU001", 2), ("SKU002", 1))

    async def play(self) -> None:
        """Plays every act, even if a promise before it broke."""
        scene = self._scene
        self._stage.title(
            "A retry must not charge a card twice",
            f"A shop on {' and '.join(host.address for host in scene.hosts)}, behind the idempotency interceptor, on "
            f"{scene.place.name}. Its client reaches it through a network that can fail. The client retries by sending "
            "the same call again, with the same key in its metadata; it has no other code for that.",
        )
        async with grpc.aio.insecure_channel(scene.proxy.address) as channel:
            self._orders, self._users = OrderServiceStub(channel), UserServiceStub(channel)
            payments = Payments(scene, channel)
            await self._reply_is_lost(channel)
            first = await self._retry_gets_the_first_reply()
            await self._burst_is_one()
            await self._reused_key_is_refused()
            await self._update_is_applied_once()
            await payments.refused_and_undone()
            await self._killed(payments)
            await self._replayed_after_kill(first)
            await nobody_can_know(scene)
            self._count()

    async def _reply_is_lost(self, channel: grpc.aio.Channel) -> None:
        self._stage.act("The reply is lost")
        await asyncio.wait_for(channel.channel_ready(), PATIENCE)
        self._scene.proxy.withhold()
        self._stage.says("client", f"CreateOrder {shown_order(self._order)}", shown_key(self._key))
        call = asyncio.create_task(send(self._orders.CreateOrder, self._order, self._key))
        async with self._scene.past_the_network() as direct:
            stored = await asyncio.wait_for(self._stored(OrderServiceStub(direct)), PATIENCE)
        self._stage.says(self._scene.host.name, f"stores {stored.id}, and answers with it")
        self._scene.proxy.cut()
        reply = await call
        self._stage.says("network", f"fails; the {len(self._scene.proxy.withheld)} bytes of that answer never arrive")
        self._stage.says("client", f"gets {reply.status}: {reply.details}", f"trailers: {reply.shown_trailers()}")
        self._stage.promise(
            "The order is stored, and its client was told UNAVAILABLE: it can't know.", reply.status == "UNAVAILABLE"
        )

    async def _stored(self, orders: "OrderServiceAsyncStub") -> Order:
        """Returns the order when another client can see it, and the proxy has withheld the answer with its id."""
        while True:
            await self._scene.proxy.more_withheld()
            found = await orders.ListOrders(ListOrdersRequest(), timeout=PATIENCE)
            if found.orders and found.orders[0].id.encode() in self._scene.proxy.withheld:
                return found.orders[0]

    async def _retry_gets_the_first_reply(self) -> Reply[Order]:
        self._stage.act("The retry gets the reply that was lost")
        if len(self._scene.hosts) > 1:
            self._scene.lead_to_the_other()
        self._stage.says("client", "sends the same call again, with the same key", shown_key(self._key))
        reply = await asyncio.wait_for(resend(self._orders.CreateOrder, self._order, self._key), PATIENCE)
        self._scene.got(reply)
        async with self._scene.past_the_network() as direct:
            listed = await OrderServiceStub(direct).ListOrders(ListOrdersRequest(), timeout=PATIENCE)
        held = reply.message is not None and list(listed.orders) == [reply.message]
        self._stage.promise("The retry was answered with the stored order; there is one order.", held)
        self._stage.promise("It was replayed, not executed.", reply.how == "replayed")
        return reply

    async def _burst_is_one(self) -> None:
        self._stage.act(f"{_BURST} duplicates at once")
        key, wanted = new_key(), order("cust_456", ("SKU003", 1))
        self._stage.says("client", f"CreateOrder {shown_order(wanted)}, {_BURST} times at once", shown_key(key))
        if len(self._scene.hosts) > 1:
            self._stage.says("network", f"leads half of them to {self._scene.hosts[1].name}")
        async with grpc.aio.insecure_channel(
            self._scene.hosts[-1].address
        ) as channel:  # to the other host, if there is one
            ways = (self._orders, OrderServiceStub(channel))
            calls = [send(ways[number % 2].CreateOrder, wanted, key) for number in range(_BURST)]
            replies = await asyncio.gather(*calls)
        how = Counter(reply.how or reply.status for reply in replies)
        ids = {reply.message.id if reply.message else reply.status for reply in replies}
        self._stage.says(
            "client", f"gets {', '.join(sorted(ids)[:3])}", *(f"{count} {name}" for name, count in sorted(how.items()))
        )
        self._stage.promise("One was executed; all others waited for it or were replayed.", _one_executed(how))
        self._stage.promise(f"All {_BURST} got the same reply.", len({reply.same for reply in replies}) == 1)

    async def _reused_key_is_refused(self) -> None:
        self._stage.act("The key is used for another request")
        other = order("cust_123", ("SKU001", 3))
        self._stage.says("client", f"CreateOrder {shown_order(other)}", f"{shown_key(self._key)}, the key of act 1")
        reply = await send(self._orders.CreateOrder, other, self._key)
        self._scene.got(reply)
        info = reply.error_info
        held = (reply.status, info.reason, info.domain) == ("FAILED_PRECONDITION", "KEY_REUSED", "grpc-idempotency")
        self._stage.promise("It was refused, in words and in an ErrorInfo that a program can read.", held)

    async def _update_is_applied_once(self) -> None:
        self._stage.act("An update comes twice, the second time too late")
        user = User(display_name="Ada Byron", email="ada@example.com")
        created = await send(self._users.CreateUser, CreateUserRequest(user=user), new_key())
        if created.message is None:
            self._scene.got(created)
            self._stage.promise("The user of this act was created.", False)
            return
        user_id, key = created.message.id, new_key()
        first = await self._rename(user_id, "Ada King", key)
        newer = await self._rename(user_id, "Ada Lovelace", new_key())
        late = await self._rename(user_id, "Ada King", key)
        async with self._scene.past_the_network() as direct:
            now = await UserServiceStub(direct).GetUser(GetUserRequest(id=user_id), timeout=PATIENCE)
        self._stage.says(self._scene.host.name, f"keeps {now.display_name}, etag {now.etag}")
        self._stage.promise(
            "The late duplicate got the first reply.",
            bool(first.same) and (late.same, late.how) == (first.same, "replayed"),
        )
        self._stage.promise("It did not undo the newer change.", now == newer.message)

    async def _rename(self, user_id: str, name: str, key: str) -> Reply[User]:
        request = UpdateUserRequest(
            user=User(id=user_id, display_name=name), update_mask=FieldMask(paths=["display_name"])
        )
        self._stage.says("client", f"UpdateUser {user_id}, display_name: {name}", shown_key(key))
        reply = await send(self._users.UpdateUser, request, key)
        self._scene.got(reply)
        return reply

    async def _killed(self, payments: Payments) -> None:
        if self._scene.place.transactional:
            self._stage.act("The server is killed in the middle of a payment")
            await payments.killed_in_the_middle()
            return
        # The shop's writes are opaque here: a payment that was cut short would be held, as the card of the next act.
        self._stage.act("The server is killed")
        killed = await self._scene.host.kill()
        self._stage.says(self._scene.host.name, f"process {killed} is ended by kill -9")
        await self._scene.replace_the_killed()

    async def _replayed_after_kill(self, first: Reply[Order]) -> None:
        self._stage.says("client", "sends the call of act 1 once more", shown_key(self._key))
        reply = await asyncio.wait_for(resend(self._orders.CreateOrder, self._order, self._key), PATIENCE)
        self._scene.got(reply)
        held = bool(first.same) and (reply.same, reply.how) == (first.same, "replayed")
        self._stage.promise("Another process replayed the reply of the one that was killed.", held)

    def _count(self) -> None:
        self._stage.act("The rows are counted")
        self._stage.says(self._scene.place.driver, "reads the rows of the database, and counts")
        try:
            counted = ledger.counted(self._scene.place)
        except Exception as error:
            self._stage.promise(f"The database could be read ({type(error).__name__}).", False)
            return
        rows = [(line.what, str(line.expected), str(line.found)) for line in counted]
        self._stage.table(("rows", "expected", "found"), rows)
        self._stage.promise("Every operation left its rows once.", all(line.expected == line.found for line in counted))


def _one_executed(how: "Counter[str]") -> bool:
    return how["executed"] == 1 and how["executed"] + how["attached"] + how["replayed"] == how.total()
