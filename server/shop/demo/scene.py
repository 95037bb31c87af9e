"""What all acts of the story have in common: the stage, the hosts, and the networks between them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
from google.type.money_pb2 import Money

from shop.demo.places import Place
from shop.demo.process import ShopProcess
from shop.demo.proxy import Proxy
from shop.demo.stage import Stage
from shop.orders.v1.orders_pb2 import CreateOrderRequest, Order, OrderItem

if TYPE_CHECKING:
    from shop.demo.calls import Reply
    from shop.users.v1.users_pb2 import User

PATIENCE = 20.0
"""The most seconds for anything that the story waits for."""
_PRICES = {"SKU001": 2000, "SKU002": 1599, "SKU003": 1250, "SKU004": 4000, "SKU005": 6000}
"""In cents."""


class Scene:
    """The stage, and what is on it.

    With two hosts the client's retries go to the host that has not seen the call before.

    Args:
        stage: Prints what happens.
        place: Where operations and rows are.
        hosts: The hosts. The network leads to the first one.
        proxy: The network between the client and the hosts.
        inner: The network between the order service and the user service.
        folder: A folder for files.
    """

    def __init__(
        self, stage: Stage, place: Place, hosts: Sequence[ShopProcess], proxy: Proxy, inner: Proxy, folder: Path
    ) -> None:
        self.stage = stage
        self.place = place
        self.hosts = list(hosts)
        """The host to which the networks lead now comes first."""
        self.proxy = proxy
        self.inner = inner
        self.folder = folder

    @property
    def host(self) -> ShopProcess:
        """The host to which the networks lead."""
        return self.hosts[0]

    def lead_to_the_other(self) -> None:
        """Makes the networks lead new connections to the other host, and cuts the present ones."""
        self.hosts.reverse()
        self._lead()
        self.proxy.cut()
        self.stage.says("network", f"leads to {self.host.name} now, on {self.host.address}")

    async def replace_the_killed(self) -> None:
        """Starts another process in place of one that was killed; or leads to the other host, if there is one."""
        if len(self.hosts) > 1:
            self.lead_to_the_other()
            return
        await self.host.start()
        self._lead()
        self.stage.says("server", f"another process starts on the same file, on {self.host.address}")

    def _lead(self) -> None:
        self.proxy.target = self.inner.target = self.host.address

    def got(self, reply: "Reply[Order] | Reply[User]") -> None:
        """Prints an answer to the client."""
        self.stage.says("client", f"gets {_told(reply)}", f"trailers: {reply.shown_trailers()}")

    @asynccontextmanager
    async def past_the_network(self) -> AsyncIterator[grpc.aio.Channel]:
        """Opens a channel directly to the host, to observe it."""
        async with grpc.aio.insecure_channel(self.host.address) as channel:
            yield channel


def _told(reply: "Reply[Order] | Reply[User]") -> str:
    message = reply.message
    if message is None:
        return f"{reply.status}: {reply.details}"
    if isinstance(message, Order):
        state = "" if message.state == Order.STATE_PENDING else f", {state_of(message)}"
        return f"{message.id}{state}"
    if message.HasField("balance"):
        return f"{message.id}, balance: {shown_money(message.balance)}"
    return f"{message.id}, display_name: {message.display_name}"


def order(customer_id: str, *items: tuple[str, int]) -> CreateOrderRequest:
    """Returns the request for an order of items, each with its quantity."""
    return CreateOrderRequest(
        customer_id=customer_id,
        items=[OrderItem(sku=sku, quantity=quantity) for sku, quantity in items],
        total_amount=dollars(sum(_PRICES[sku] * quantity for sku, quantity in items)),
    )


def dollars(cents: int) -> Money:
    """Returns an amount."""
    return Money(currency_code="USD", units=cents // 100, nanos=cents % 100 * 10_000_000)


def shown_order(order: CreateOrderRequest) -> str:
    """Returns an order as text for people."""
    items = ", ".join(f"{item.sku} \N{MULTIPLICATION SIGN} {item.quantity}" for item in order.items)
    return f"{order.customer_id}: {items}; {shown_money(order.total_amount)}"


def shown_money(amount: Money) -> str:
    """Returns an amount as text for people."""
    return f"{amount.units}.{amount.nanos // 10_000_000:02} {amount.currency_code}"


def state_of(order: Order) -> str:
    """Returns the state of an order as text for people."""
    return Order.State.Name(order.state).removeprefix("STATE_").lower()
