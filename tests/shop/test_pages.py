"""Pages of a list."""

import asyncio
from collections.abc import Iterator

import grpc
import grpc.aio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.shop.helpers import NO_CONTEXT, NO_USERS, Client, ScratchStore, bad_fields, create_order, create_user

from shop import pages
from shop.errors import InvalidRequest
from shop.orders import rows
from shop.orders.changes import Changes
from shop.orders.service import OrderService
from shop.orders.v1.orders_pb2 import ListOrdersRequest, OrderItem
from shop.users.service import UserService
from shop.users.v1.users_pb2 import DeleteUserRequest, ListUsersRequest

ENGINES = ["sqlite", "postgresql", "redis"]

COUNT = 23


@pytest.fixture(scope="module")
def filled() -> Iterator[tuple[OrderService, list[str]]]:
    """A servicer with orders, and their ids in the order in which they were made."""
    store = ScratchStore()
    ids = [store.run(lambda db: rows.insert_order(db, create_order())).id for _ in range(COUNT)]
    yield OrderService(store, Changes(), NO_USERS), ids
    store.close()


@given(sizes=st.lists(st.integers(0, COUNT + 2), min_size=1))
@settings(deadline=None)
def test_a_walk_finds_each_order_once(filled: tuple[OrderService, list[str]], sizes: list[int]) -> None:
    """Pages of whatever sizes, each led to by the one before, are the whole list in its order, and end."""
    servicer, ids = filled

    async def walk() -> list[str]:
        found: list[str] = []
        token = ""
        for size in sizes * (COUNT + 1):
            request = ListOrdersRequest(page_size=size, page_token=token)
            page = await servicer.ListOrders(request, NO_CONTEXT)
            assert len(page.orders) <= (size or 50)
            found += [order.id for order in page.orders]
            token = page.next_page_token
            if not token:
                break
        return found

    assert asyncio.run(walk()) == ids


@given(st.text("AZaz09-_=+/ é\n", max_size=30))
def test_no_text_that_we_did_not_make_is_a_token(text: str) -> None:
    """A token that was not given out is refused, and never an internal error."""
    with pytest.raises(InvalidRequest):
        pages.asked("orders", ListOrdersRequest(page_token=text or "x"))


@given(st.integers(1, 2**63 - 1))
def test_a_token_is_bound_to_its_list(after: int) -> None:
    """A token leads to where it says, in its own list alone."""
    token = pages.token("orders", after)
    assert pages.asked("orders", ListOrdersRequest(page_token=token)).after == after
    with pytest.raises(InvalidRequest):
        pages.asked("users", ListUsersRequest(page_token=token))


async def test_list_orders_refuses_what_is_no_page(client: Client) -> None:
    """A negative size and a bad token are named, both at once."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.orders.ListOrders(ListOrdersRequest(page_size=-1, page_token="nonsense"))
    assert bad_fields(refused.value) == ["page_size", "page_token"]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.users.ListUsers(ListUsersRequest(page_size=-1, page_token="nonsense"))
    assert bad_fields(refused.value) == ["page_size", "page_token"]


async def test_an_empty_list_is_one_empty_page(client: Client) -> None:
    """A list of nothing has no next page."""
    orders = await client.orders.ListOrders(ListOrdersRequest())
    users = await client.users.ListUsers(ListUsersRequest())
    assert (len(orders.orders), orders.next_page_token) == (0, "")
    assert (len(users.users), users.next_page_token) == (0, "")


async def test_a_size_of_none_is_fifty_and_a_large_one_is_a_thousand(client: Client) -> None:
    """page_size has a default and a limit."""
    await client.shop.data.transaction(lambda db: [rows.insert_order(db, create_order()) for _ in range(1001)])
    assert len((await client.orders.ListOrders(ListOrdersRequest())).orders) == 50
    page = await client.orders.ListOrders(ListOrdersRequest(page_size=2**31 - 1))
    assert len(page.orders) == 1000
    last = await client.orders.ListOrders(ListOrdersRequest(page_token=page.next_page_token))
    assert (len(last.orders), last.next_page_token) == (1, "")


async def test_large_orders_make_short_pages(client: Client) -> None:
    """A page stays well below the largest message that a client takes, and a walk still finds all."""
    items = [OrderItem(sku="s" * 100, quantity=1)] * 1000
    made = [(await client.orders.CreateOrder(create_order(items=items))).id for _ in range(8)]
    found, token, walked = [], "", 0
    while token or not walked:
        page = await client.orders.ListOrders(ListOrdersRequest(page_size=1000, page_token=token))
        assert page.ByteSize() < 1024 * 1024
        found += [order.id for order in page.orders]
        token, walked = page.next_page_token, walked + 1
    assert found == made
    assert walked > 1


async def test_a_walk_is_not_led_astray_by_a_delete(scratch: ScratchStore) -> None:
    """A user who is deleted behind a page, be it the page's last, makes no other be skipped or come twice."""
    users = UserService(scratch)
    made = [(await users.CreateUser(create_user(f"{n}@example.com"), NO_CONTEXT)).id for n in range(6)]
    first = await users.ListUsers(ListUsersRequest(page_size=2), NO_CONTEXT)
    await users.DeleteUser(DeleteUserRequest(id=made[1]), NO_CONTEXT)
    rest = await users.ListUsers(ListUsersRequest(page_token=first.next_page_token), NO_CONTEXT)
    assert [user.id for user in (*first.users, *rest.users)] == made
