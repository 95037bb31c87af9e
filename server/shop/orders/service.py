"""The order service. Each handler except Checkout checks its request and has all its effects in one transaction."""

from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import TYPE_CHECKING

from grpc_idempotency.aio import current_operation
from shop import pages
from shop.database import Data, Database
from shop.errors import Context, Reason, Refused, answers, answers_stream
from shop.etags import require_match
from shop.fields import Fields
from shop.orders import rows
from shop.orders.changes import Changes
from shop.orders.checkout import Checkout
from shop.orders.checks import MOST_ITEMS, check_item, check_order
from shop.orders.imports import whole_import
from shop.orders.state import FINAL, existing, locked, move, pending
from shop.orders.v1 import orders_pb2_grpc
from shop.orders.v1.orders_pb2 import (
    AddItemRequest,
    CancelOrderRequest,
    CheckoutRequest,
    CreateOrderRequest,
    GetOrderRequest,
    ImportOrdersResponse,
    ListOrdersRequest,
    ListOrdersResponse,
    Order,
    WatchOrderRequest,
)

if TYPE_CHECKING:  # a name only for type checkers
    from shop.users.v1.users_pb2_grpc import UserServiceAsyncStub

_LARGEST_PAGE = 256 * 1024


class OrderService(orders_pb2_grpc.OrderServiceServicer):
    """The order service."""

    def __init__(self, data: Data, changes: Changes, users: "UserServiceAsyncStub") -> None:
        """Takes ``users`` on a channel with client_interceptors(): a repeated call is then the same operation there."""
        self._data = data
        self._changes = changes
        self._users = users

    @answers
    async def CreateOrder(self, request: CreateOrderRequest, context: Context) -> Order:
        """Creates an order."""
        with Fields() as fields:
            check_order(fields, request)
        return await self._data.transaction(lambda db: rows.insert_order(db, request))

    @answers
    async def GetOrder(self, request: GetOrderRequest, context: Context) -> Order:
        """Returns one order."""
        with Fields() as fields:
            fields.id("id", request.id)
        return await self._data.read(lambda db: existing(db, request.id))

    @answers
    async def ListOrders(self, request: ListOrdersRequest, context: Context) -> ListOrdersResponse:
        """Returns a page of orders, which is shorter if the orders are large."""
        page = pages.asked("orders", request)
        found, more = await self._data.read(
            lambda db: rows.list_orders(db, page.after, page.size, most_bytes=_LARGEST_PAGE)
        )
        return ListOrdersResponse(
            orders=[order for _, order in found],
            next_page_token=pages.token("orders", found[-1][0]) if more else "",
        )

    @answers
    async def AddItem(self, request: AddItemRequest, context: Context) -> Order:
        """Adds an item to a pending order."""
        with Fields() as fields:
            fields.id("order_id", request.order_id)
            check_item(fields, request.item, "item")

        def add(db: Database) -> Order:
            order = pending(locked(db, request.order_id))
            if len(order.items) >= MOST_ITEMS:
                raise Refused(Reason.ORDER_FULL, id=order.id, most=str(MOST_ITEMS))
            rows.add_item(db, order, request.item)
            return existing(db, order.id)

        return await self._changed(add)

    @answers
    async def CancelOrder(self, request: CancelOrderRequest, context: Context) -> Order:
        """Cancels a pending order."""
        with Fields() as fields:
            fields.id("id", request.id)

        def cancel(db: Database) -> Order:
            order = locked(db, request.id)
            require_match(request.etag, order.etag, order.id)
            return move(db, pending(order), Order.STATE_CANCELLED)

        return await self._changed(cancel)

    @answers
    async def Checkout(self, request: CheckoutRequest, context: Context) -> Order:
        """Pays for an order and confirms it, or undoes everything."""
        with Fields() as fields:
            fields.id("order_id", request.order_id)
        operation = current_operation()
        if operation is None:
            raise RuntimeError("Checkout is made of steps, so its policy has to require a key")
        checkout = Checkout(operation, self._data, self._users, self._changes, request.order_id)
        return await checkout.run()

    @answers_stream
    async def WatchOrder(self, request: WatchOrderRequest, context: Context) -> AsyncIterator[Order]:
        """Sends an order as it is, and again at each change, until it is in a final state."""
        with Fields() as fields:
            fields.id("id", request.id)
        last = Order()
        with self._changes.watching(request.id) as watcher:
            while not self._changes.closed:
                watcher.clear()
                order = await self._data.read(lambda db: existing(db, request.id))
                if order != last:
                    yield order
                if order.state in FINAL:
                    return
                last = order
                await self._changes.wait(watcher)
        raise Refused(Reason.STOPPING)

    @answers
    async def ImportOrders(self, requests: AsyncIterable[CreateOrderRequest], context: Context) -> ImportOrdersResponse:
        """Creates an order for each message, all or none."""
        asked = await whole_import(requests, context)

        def create(db: Database) -> ImportOrdersResponse:
            for request in asked:
                rows.insert_order(db, request)
            return ImportOrdersResponse(count=len(asked))

        return await self._data.transaction(create)

    async def _changed(self, change: Callable[[Database], Order]) -> Order:
        order = await self._data.transaction(change)
        self._changes.announce(order.id)
        return order
