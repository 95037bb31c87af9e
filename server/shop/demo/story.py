"""The story: each act shows one promise of the project with an ordinary client, and checks it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc.aio
from google.protobuf.field_mask_pb2 import FieldMask
from google.type.money_pb2 import Money

from shop.demo import ledger
from shop.demo.calls import Reply, new_key, resend, send, shown_key
from shop.demo.places import Place
from shop.demo.process import ShopProcess
from shop.demo.proxy import Proxy
from shop.demo.stage import Stage
from shop.orders.v1.orders_pb2 import CreateOrderRequest, ListOrdersRequest, Order, OrderItem
from shop.orders.v1.orders_pb2_grpc import OrderServiceStub
from shop.users.v1.users_pb2 import CreateUserRequest, GetUserRequest, UpdateUserRequest, User
from shop.users.v1.users_pb2_grpc import UserServiceStub

if TYPE_CHECKING:
    from shop.orders.v1.orders_pb2_grpc import OrderServiceAsyncStub

_BURST = 50
_PATIENCE = 20.0


class Story:
    """Plays all acts, one after the other, on one stage.

    With two hosts the client's retries go to the host that has not seen the call before.
    """

    def __init__(self, stage: Stage, place: Place, hosts: Sequence[ShopProcess], proxy: Proxy) -> None:
        self._stage = stage
        self._place = place
        self._hosts = list(hosts)
        """The host to which the network leads now comes first."""
        self._proxy = proxy
        self._key = new_key()
        self._order = _order("cust_123", ("SKU001", 2), ("SKU002", 1))

    async def play(self) -> None:
        """Plays every act, even if a promise before it broke."""
        self._stage.title(
            "A retry must not charge a card twice",
            f"A shop on {' and '.join(host.address for host in self._hosts)}, behind the idempotency interceptor, on "
            f"{self._place.name}. Its client reaches it through a network that can fail. The client retries by sending "
            "the same call again, with the same key in its metadata; it has no other code for that.",
        )
        async with grpc.aio.insecure_channel(self._proxy.address) as channel:
            self._orders, self._users = OrderServiceStub(channel), UserServiceStub(channel)
            await self._reply_is_lost(channel)
            first = await self._retry_gets_the_first_reply()
            await self._burst_is_one()
            await self._reused_key_is_refused()
            await self._update_is_applied_once()
            await self._replayed_after_kill(first)
            self._count()

    async def _reply_is_lost(self, channel: grpc.aio.Channel) -> None:
        self._stage.act("The reply is lost")
        await asyncio.wait_for(channel.channel_ready(), _PATIENCE)
        self._proxy.withhold()
        self._stage.says("client", f"CreateOrder {_shown(self._order)}", shown_key(self._key))
        call = asyncio.create_task(send(self._orders.CreateOrder, self._order, self._key))
        async with self._past_the_network() as direct:
            stored = await asyncio.wait_for(self._stored(OrderServiceStub(direct)), _PATIENCE)
        self._stage.says(self._host.name, f"stores {stored.id}, and answers with it")
        self._proxy.cut()
        reply = await call
        self._stage.says("network", f"fails; the {len(self._proxy.withheld)} bytes of that answer never arrive")
        self._stage.says("client", f"gets {reply.status}: {reply.details}", f"trailers: {reply.shown_trailers()}")
        self._stage.promise(
            "The order is stored, and its client was told UNAVAILABLE: it can't know.", reply.status == "UNAVAILABLE"
        )

    async def _stored(self, orders: "OrderServiceAsyncStub") -> Order:
        """Returns the order when another client can see it, and the proxy has withheld the answer with its id."""
        while True:
            await self._proxy.more_withheld()
            found = await orders.ListOrders(ListOrdersRequest(), timeout=_PATIENCE)
            if found.orders and found.orders[0].id.encode() in self._proxy.withheld:
                return found.orders[0]

    async def _retry_gets_the_first_reply(self) -> Reply[Order]:
        self._stage.act("The retry gets the reply that was lost")
        if len(self._hosts) > 1:
            self._lead_to_the_other()
        self._stage.says("client", "sends the same call again, with the same key", shown_key(self._key))
        reply = await asyncio.wait_for(resend(self._orders.CreateOrder, self._order, self._key), _PATIENCE)
        self._got(reply)
        async with self._past_the_network() as direct:
            listed = await OrderServiceStub(direct).ListOrders(ListOrdersRequest(), timeout=_PATIENCE)
        held = reply.message is not None and list(listed.orders) == [reply.message]
        self._stage.promise("The retry was answered with the stored order; there is one order.", held)
        self._stage.promise("It was replayed, not executed.", reply.how == "replayed")
        return reply

    async def _burst_is_one(self) -> None:
        self._stage.act(f"{_BURST} duplicates at once")
        key, order = new_key(), _order("cust_456", ("SKU003", 1))
        self._stage.says("client", f"CreateOrder {_shown(order)}, {_BURST} times at once", shown_key(key))
        if len(self._hosts) > 1:
            self._stage.says("network", f"leads half of them to {self._hosts[1].name}")
        async with grpc.aio.insecure_channel(self._hosts[-1].address) as channel:  # to the other host, if there is one
            ways = (self._orders, OrderServiceStub(channel))
            calls = [send(ways[number % 2].CreateOrder, order, key) for number in range(_BURST)]
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
        other = _order("cust_123", ("SKU001", 3))
        self._stage.says("client", f"CreateOrder {_shown(other)}", f"{shown_key(self._key)}, the key of act 1")
        reply = await send(self._orders.CreateOrder, other, self._key)
        self._got(reply)
        info = reply.error_info
        held = (reply.status, info.reason, info.domain) == ("FAILED_PRECONDITION", "KEY_REUSED", "grpc-idempotency")
        self._stage.promise("It was refused, in words and in an ErrorInfo that a program can read.", held)

    async def _update_is_applied_once(self) -> None:
        self._stage.act("An update comes twice, the second time too late")
        user = User(display_name="Ada Byron", email="ada@example.com")
        created = await send(self._users.CreateUser, CreateUserRequest(user=user), new_key())
        if created.message is None:
            self._got(created)
            self._stage.promise("The user of this act was created.", False)
            return
        user_id, key = created.message.id, new_key()
        first = await self._rename(user_id, "Ada King", key)
        newer = await self._rename(user_id, "Ada Lovelace", new_key())
        late = await self._rename(user_id, "Ada King", key)
        async with self._past_the_network() as direct:
            now = await UserServiceStub(direct).GetUser(GetUserRequest(id=user_id), timeout=_PATIENCE)
        self._stage.says(self._host.name, f"keeps {now.display_name}, etag {now.etag}")
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
        self._got(reply)
        return reply

    async def _replayed_after_kill(self, first: Reply[Order]) -> None:
        self._stage.act("The server is killed")
        killed = await self._host.kill()
        self._stage.says(self._host.name, f"process {killed} is ended by kill -9")
        if len(self._hosts) > 1:
            self._lead_to_the_other()
        else:
            await self._host.start()
            self._proxy.target = self._host.address
            self._stage.says("server", f"another process starts on the same file, on {self._host.address}")
        self._stage.says("client", "sends the call of act 1 once more", shown_key(self._key))
        reply = await asyncio.wait_for(resend(self._orders.CreateOrder, self._order, self._key), _PATIENCE)
        self._got(reply)
        held = bool(first.same) and (reply.same, reply.how) == (first.same, "replayed")
        self._stage.promise("Another process replayed the reply of the one that was killed.", held)

    def _count(self) -> None:
        self._stage.act("The rows are counted")
        self._stage.says(self._place.driver, "reads the rows of the database, and counts")
        try:
            counted = ledger.counted(self._place)
        except Exception as error:
            self._stage.promise(f"The database could be read ({type(error).__name__}).", False)
            return
        rows = [(line.what, str(line.expected), str(line.found)) for line in counted]
        self._stage.table(("rows", "expected", "found"), rows)
        self._stage.promise("Every operation left its rows once.", all(line.expected == line.found for line in counted))

    @property
    def _host(self) -> ShopProcess:
        return self._hosts[0]

    def _lead_to_the_other(self) -> None:
        """Makes the network lead new connections to the other host, and cuts the present ones."""
        self._hosts.reverse()
        self._proxy.target = self._host.address
        self._proxy.cut()
        self._stage.says("network", f"leads to {self._host.name} now, on {self._host.address}")

    def _got(self, reply: "Reply[Order] | Reply[User]") -> None:
        message = reply.message
        if message is None:
            shown = f"{reply.status}: {reply.details}"
        elif isinstance(message, Order):
            shown = message.id
        else:
            shown = f"{message.id}, display_name: {message.display_name}"
        self._stage.says("client", f"gets {shown}", f"trailers: {reply.shown_trailers()}")

    @asynccontextmanager
    async def _past_the_network(self) -> AsyncIterator[grpc.aio.Channel]:
        """Opens a channel directly to the server, to observe it."""
        async with grpc.aio.insecure_channel(self._host.address) as channel:
            yield channel


def _one_executed(how: "Counter[str]") -> bool:
    return how["executed"] == 1 and how["executed"] + how["attached"] + how["replayed"] == how.total()


def _order(customer_id: str, *items: tuple[str, int]) -> CreateOrderRequest:
    return CreateOrderRequest(
        customer_id=customer_id,
        items=[OrderItem(sku=sku, quantity=quantity) for sku, quantity in items],
        total_amount=Money(currency_code="USD", units=55, nanos=990_000_000),
    )


def _shown(order: CreateOrderRequest) -> str:
    items = ", ".join(f"{item.sku} \N{MULTIPLICATION SIGN} {item.quantity}" for item in order.items)
    total = order.total_amount
    return f"{order.customer_id}: {items}; {total.units}.{total.nanos // 10_000_000:02} {total.currency_code}"
