"""Orders, through a real server."""

import time

import grpc
import grpc.aio
import pytest
from tests.shop.helpers import Client, bad_fields, create_order, reason, usd

from shop.orders.checks import MOST_ITEMS
from shop.orders.v1.orders_pb2 import (
    AddItemRequest,
    CancelOrderRequest,
    CreateOrderRequest,
    GetOrderRequest,
    Order,
    OrderItem,
)

ENGINES = ["sqlite", "postgresql", "redis"]


async def test_create_order_answers_the_order(client: Client) -> None:
    """CreateOrder answers the whole order, pending, with an id, times and an etag of the server's."""
    before = time.time()
    order = await client.orders.CreateOrder(create_order())
    assert order.id.startswith("order-")
    assert (order.customer_id, order.total_amount) == ("cust_123", usd(55, 990_000_000))
    assert [(item.sku, item.quantity) for item in order.items] == [("SKU001", 2), ("SKU002", 1)]
    assert order.state == Order.STATE_PENDING
    assert before - 1 <= order.create_time.ToMicroseconds() / 1e6 <= time.time() + 1
    assert order.update_time == order.create_time
    assert order.etag


async def test_get_order_answers_what_create_order_answered(client: Client) -> None:
    """An order is kept to the field."""
    order = await client.orders.CreateOrder(create_order())
    assert await client.orders.GetOrder(GetOrderRequest(id=order.id)) == order


async def test_calls_without_a_key_are_calls_of_their_own(client: Client) -> None:
    """Without a key nothing is deduplicated."""
    first, second = [await client.orders.CreateOrder(create_order()) for _ in range(2)]
    assert first.id != second.id


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (CreateOrderRequest(), ["customer_id", "items", "total_amount"]),
        (create_order(customer_id=" "), ["customer_id"]),
        (create_order(customer_id="c" * 101), ["customer_id"]),
        (create_order(customer_id="a\nb"), ["customer_id"]),
        (create_order(items=[OrderItem(sku="a", quantity=1)] * (MOST_ITEMS + 1)), ["items"]),
        (
            create_order(
                items=[OrderItem(sku="a", quantity=1), OrderItem(quantity=0), OrderItem(sku="b", quantity=-1)]
            ),
            ["items[1].sku", "items[1].quantity", "items[2].quantity"],
        ),
        (create_order(items=[OrderItem(sku="s" * 101, quantity=1)]), ["items[0].sku"]),
        (create_order(total_amount=usd(-1)), ["total_amount"]),
        (create_order(total_amount=usd(0, -1)), ["total_amount"]),
        (create_order(total_amount=usd(1, -1)), ["total_amount.nanos"]),
        (create_order(total_amount=usd(1, 1_000_000_000)), ["total_amount.nanos"]),
        (create_order(total_amount={"currency_code": "usd", "units": 1}), ["total_amount.currency_code"]),
        (create_order(total_amount={"currency_code": "US\n", "units": 1}), ["total_amount.currency_code"]),
    ],
)
async def test_create_order_names_every_bad_field(
    client: Client, request_: CreateOrderRequest, fields: list[str]
) -> None:
    """Input that is not valid gets INVALID_ARGUMENT, with a BadRequest that names each bad field by its path."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.orders.CreateOrder(request_)
    assert bad_fields(refused.value) == fields


async def test_a_free_order_is_an_order(client: Client) -> None:
    """A total of nothing is valid, in a currency of course."""
    order = await client.orders.CreateOrder(create_order(total_amount=usd(0)))
    assert order.total_amount == usd(0)


async def test_very_many_bad_fields_still_make_an_answer(client: Client) -> None:
    """An answer's metadata has a limit, so the first violations are named and the rest are counted."""
    items = [OrderItem()] * MOST_ITEMS
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.orders.CreateOrder(create_order(items=items))
    assert bad_fields(refused.value)[:2] == ["items[0].sku", "items[0].quantity"]
    metadata = refused.value.trailing_metadata()
    size = sum(len(name) + len(value) * 4 / 3 for name, value in metadata) + len(refused.value.details() or "")
    assert size < 6 * 1024


async def test_add_item_appends(client: Client) -> None:
    """AddItem puts the item last, changes the etag, and leaves the total to the client."""
    order = await client.orders.CreateOrder(create_order())
    more = await client.orders.AddItem(AddItemRequest(order_id=order.id, item=OrderItem(sku="SKU001", quantity=3)))
    assert [(item.sku, item.quantity) for item in more.items] == [("SKU001", 2), ("SKU002", 1), ("SKU001", 3)]
    assert more.total_amount == order.total_amount
    assert more.etag != order.etag
    assert more.create_time == order.create_time
    assert await client.orders.GetOrder(GetOrderRequest(id=order.id)) == more


async def test_an_order_can_be_full(client: Client) -> None:
    """An order holds a bounded number of items, so that each answer can hold the order."""
    order = await client.orders.CreateOrder(create_order(items=[OrderItem(sku="a", quantity=1)] * MOST_ITEMS))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.orders.AddItem(AddItemRequest(order_id=order.id, item=OrderItem(sku="b", quantity=1)))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason(refused.value) == "ORDER_FULL"


async def test_cancel_order_is_final(client: Client) -> None:
    """A cancelled order can be neither cancelled nor changed."""
    order = await client.orders.CreateOrder(create_order())
    cancelled = await client.orders.CancelOrder(CancelOrderRequest(id=order.id))
    assert cancelled.state == Order.STATE_CANCELLED
    assert await client.orders.GetOrder(GetOrderRequest(id=order.id)) == cancelled
    for again in (
        client.orders.CancelOrder(CancelOrderRequest(id=order.id)),
        client.orders.AddItem(AddItemRequest(order_id=order.id, item=OrderItem(sku="a", quantity=1))),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await again
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert reason(refused.value) == "ORDER_NOT_PENDING"


async def test_cancel_order_heeds_the_etag(client: Client) -> None:
    """An etag that is not the order's present one gets ABORTED, and nothing changes; the present one is accepted."""
    order = await client.orders.CreateOrder(create_order())
    item = OrderItem(sku="a", quantity=1)
    changed = await client.orders.AddItem(AddItemRequest(order_id=order.id, item=item))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.orders.CancelOrder(CancelOrderRequest(id=order.id, etag=order.etag))
    assert refused.value.code() is grpc.StatusCode.ABORTED
    assert reason(refused.value) == "ETAG_MISMATCH"
    assert await client.orders.GetOrder(GetOrderRequest(id=order.id)) == changed
    cancelled = await client.orders.CancelOrder(CancelOrderRequest(id=order.id, etag=changed.etag))
    assert cancelled.state == Order.STATE_CANCELLED


async def test_an_order_that_is_not_there(client: Client) -> None:
    """Every method that names an order answers NOT_FOUND where there is none."""
    for call in (
        client.orders.GetOrder(GetOrderRequest(id="order-none")),
        client.orders.AddItem(AddItemRequest(order_id="order-none", item=OrderItem(sku="a", quantity=1))),
        client.orders.CancelOrder(CancelOrderRequest(id="order-none")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        assert reason(refused.value) == "ORDER_NOT_FOUND"


async def test_an_order_that_is_not_named(client: Client) -> None:
    """Every method that names an order asks for the name."""
    for call, fields in (
        (client.orders.GetOrder(GetOrderRequest()), ["id"]),
        (client.orders.GetOrder(GetOrderRequest(id="o" * 101)), ["id"]),
        (client.orders.AddItem(AddItemRequest()), ["order_id", "item.sku", "item.quantity"]),
        (client.orders.CancelOrder(CancelOrderRequest()), ["id"]),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert bad_fields(refused.value) == fields
