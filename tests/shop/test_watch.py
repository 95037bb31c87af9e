"""WatchOrder."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import grpc
import grpc.aio
import pytest
from tests.shop.helpers import (
    NO_CONTEXT,
    NO_USERS,
    Client,
    ScratchStore,
    bad_fields,
    create_order,
    open_shop,
    reason,
    retry_seconds,
)

from shop.database import Database
from shop.orders import rows
from shop.orders.changes import Changes
from shop.orders.service import OrderService
from shop.orders.v1.orders_pb2 import (
    AddItemRequest,
    CancelOrderRequest,
    GetOrderRequest,
    Order,
    OrderItem,
    WatchOrderRequest,
)

ENGINES = ["sqlite", "postgresql", "redis"]

T = TypeVar("T")
ITEM = OrderItem(sku="SKU003", quantity=1)


async def test_a_watcher_sees_each_change_until_the_last(client: Client) -> None:
    """The order comes as it is, again at each change, and the stream ends by itself with a final state."""
    order = await client.orders.CreateOrder(create_order())
    watch = client.orders.WatchOrder(WatchOrderRequest(id=order.id))
    assert await watch.read() == order
    changed = await client.orders.AddItem(AddItemRequest(order_id=order.id, item=ITEM))
    assert await watch.read() == changed
    cancelled = await client.orders.CancelOrder(CancelOrderRequest(id=order.id))
    assert await watch.read() == cancelled
    assert await watch.read() is grpc.aio.EOF
    assert await watch.code() is grpc.StatusCode.OK


async def test_a_final_order_comes_once(client: Client) -> None:
    """There is nothing to wait for in a final state."""
    order = await client.orders.CreateOrder(create_order())
    cancelled = await client.orders.CancelOrder(CancelOrderRequest(id=order.id))
    assert [seen async for seen in client.orders.WatchOrder(WatchOrderRequest(id=order.id))] == [cancelled]


async def test_a_change_by_another_process_is_seen(client: Client) -> None:
    """A change that nobody announced is found by looking again."""
    order = await client.orders.CreateOrder(create_order())
    watch = client.orders.WatchOrder(WatchOrderRequest(id=order.id))
    assert await watch.read() == order
    await client.shop.data.transaction(
        lambda db: db.execute("UPDATE shop_orders SET state = ?, version = version + 1", (Order.STATE_CANCELLED,))
    )
    seen = await watch.read()
    assert isinstance(seen, Order)
    assert seen.state == Order.STATE_CANCELLED
    assert await watch.read() is grpc.aio.EOF


async def test_what_can_not_be_watched_is_refused(client: Client) -> None:
    """NOT_FOUND and INVALID_ARGUMENT come on streams as they do elsewhere."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.orders.WatchOrder(WatchOrderRequest(id="order-none")).read()
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert reason(refused.value) == "ORDER_NOT_FOUND"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.orders.WatchOrder(WatchOrderRequest()).read()
    assert bad_fields(refused.value) == ["id"]


async def test_a_stop_ends_the_watch_at_once(tmp_path: Path) -> None:
    """A server that stops tells its watchers to come again, and does not wait for them."""
    async with open_shop(tmp_path / "shop.db") as client:
        order = await client.orders.CreateOrder(create_order())
        watch = client.orders.WatchOrder(WatchOrderRequest(id=order.id))
        await watch.read()
        client.shop.changes.close()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await watch.read()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reason(refused.value) == "STOPPING"
        assert retry_seconds(refused.value) == 1


async def test_a_watcher_who_leaves_leaves_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled watch ends on the server too, and is forgotten."""
    changes, left = client.shop.changes, asyncio.Event()
    wait = changes.wait

    async def noted_wait(watcher: asyncio.Event) -> None:
        try:
            await wait(watcher)
        except asyncio.CancelledError:
            left.set()
            raise

    monkeypatch.setattr(changes, "wait", noted_wait)
    order = await client.orders.CreateOrder(create_order())
    watch = client.orders.WatchOrder(WatchOrderRequest(id=order.id))
    await watch.read()
    assert changes.watched == 1
    watch.cancel()
    await asyncio.wait_for(left.wait(), timeout=10)
    await client.orders.GetOrder(GetOrderRequest(id=order.id))
    assert changes.watched == 0


async def test_a_change_during_a_look_is_not_missed() -> None:
    """An announcement between the reading and the waiting ends the waiting at once."""
    changes = Changes(poll=3600)
    with changes.watching("order-1") as watcher:
        watcher.clear()
        changes.announce("order-2")
        assert not watcher.is_set()
        changes.announce("order-1")
        await asyncio.wait_for(changes.wait(watcher), timeout=5)
    assert changes.watched == 0
    changes.announce("order-1")


async def test_a_look_that_finds_no_change_says_nothing(scratch: ScratchStore) -> None:
    """Looking again, however often, sends the order only when it has changed."""
    changes = Changes(poll=0.001)
    orders = OrderService(scratch, changes, NO_USERS)
    order = await orders.CreateOrder(create_order(), NO_CONTEXT)
    watch = orders.WatchOrder(WatchOrderRequest(id=order.id), NO_CONTEXT)
    assert await anext(watch) == order
    looks = 0
    read = scratch.read

    async def look(fn: Callable[[Database], T]) -> T:
        nonlocal looks
        looks += 1
        if looks == 5:
            scratch.run(lambda db: rows.update_order(db, order, Order.STATE_CANCELLED))
        return await read(fn)

    scratch.read = look  # type: ignore[method-assign]  # to count
    assert (await anext(watch)).state == Order.STATE_CANCELLED
    assert looks == 5
    with pytest.raises(StopAsyncIteration):
        await anext(watch)
