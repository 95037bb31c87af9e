"""ImportOrders."""

import asyncio
from collections.abc import Iterable

import grpc
import grpc.aio
import pytest
from tests.harness.clients import silence
from tests.shop.helpers import Client, bad_fields, create_order, reason

from shop.orders.imports import MOST_ORDERS
from shop.orders.v1.orders_pb2 import CreateOrderRequest, ImportOrdersResponse, ListOrdersRequest, OrderItem

ENGINES = ["sqlite", "postgresql", "redis"]


async def send(
    client: Client, requests: Iterable[CreateOrderRequest], *metadata: tuple[str, str]
) -> ImportOrdersResponse:
    return await client.orders.ImportOrders(iter(requests), metadata=metadata)


async def count(client: Client) -> int:
    found = await client.shop.data.transaction(lambda db: db.execute("SELECT count(*) FROM shop_orders").fetchone())
    assert found is not None
    return int(found[0])


async def test_an_import_creates_an_order_per_message(client: Client) -> None:
    """Each message makes an order, in the order of the stream, and the answer counts them."""
    names = [f"cust_{number}" for number in range(20)]
    assert (await send(client, (create_order(customer_id=name) for name in names))).count == 20
    page = await client.orders.ListOrders(ListOrdersRequest())
    assert [order.customer_id for order in page.orders] == names


async def test_an_empty_import_is_one_of_nothing(client: Client) -> None:
    """A stream without messages creates nothing, and that is no error."""
    assert (await send(client, [])).count == 0


async def test_an_import_is_all_or_nothing(client: Client) -> None:
    """One bad message, and nothing is created; the bad fields of all messages are named."""
    requests = [create_order(), create_order(customer_id=""), create_order(), create_order(items=[OrderItem(sku="a")])]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await send(client, requests)
    assert bad_fields(refused.value) == ["messages[1].customer_id", "messages[3].items[0].quantity"]
    assert await count(client) == 0


@pytest.mark.parametrize(
    ("number", "items"),
    [pytest.param(MOST_ORDERS + 1, 1, id="orders"), pytest.param(11, 1000, id="items")],
)
async def test_an_import_has_an_end(client: Client, number: int, items: int) -> None:
    """More messages or items than one transaction should hold are refused, and nothing is created."""
    order = create_order(items=[OrderItem(sku="a", quantity=1)] * items)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await send(client, [order] * number)
    assert bad_fields(refused.value) == ["messages"]
    assert await count(client) == 0


async def test_the_largest_import(client: Client) -> None:
    """An import up to the limit is taken."""
    assert (await send(client, [create_order()] * MOST_ORDERS)).count == MOST_ORDERS


async def test_an_import_that_is_not_whole_creates_nothing(client: Client) -> None:
    """The server can't tell a stream that broke off from a whole one, so an announced count is held to."""
    whole = ("idempotency-message-count", "3")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await send(client, [create_order()] * 2, whole)
    assert refused.value.code() is grpc.StatusCode.CANCELLED
    assert reason(refused.value) == "IMPORT_TRUNCATED"
    assert await count(client) == 0
    assert (await send(client, [create_order()] * 3, whole)).count == 3


@pytest.mark.parametrize("values", [["-1"], ["three"], ["1", "2"], [""]])
async def test_a_count_is_a_number(client: Client, values: list[str]) -> None:
    """An announcement that can't be read is named."""
    over = asyncio.Event()
    announced = [("idempotency-message-count", value) for value in values]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.orders.ImportOrders(silence(over), metadata=announced)
    over.set()
    assert bad_fields(refused.value) == ["idempotency-message-count"]
    assert await count(client) == 0
