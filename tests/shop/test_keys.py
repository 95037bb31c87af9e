"""The shop's writes behind the interceptor: what the library promises, seen by a client of the shop."""

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from tests.shop.helpers import Client, bad_fields, create_order, create_user, open_shop, trailer, usd

from grpc_idempotency import StoreUnavailable
from shop.orders.v1.orders_pb2 import (
    AddItemRequest,
    CancelOrderRequest,
    GetOrderRequest,
    OrderItem,
    WatchOrderRequest,
)
from shop.users.v1.users_pb2 import (
    AddCreditRequest,
    CaptureReservationRequest,
    DeleteUserRequest,
    GetUserRequest,
    ReleaseReservationRequest,
    ReserveCreditRequest,
    UpdateUserRequest,
    User,
)

ENGINES = ["sqlite", "postgresql", "redis"]


def key(value: str) -> tuple[tuple[str, str], ...]:
    return (("idempotency-key", value),)


async def rows(client: Client, table: str) -> int:
    found = await client.shop.data.transaction(lambda db: db.execute(f"SELECT count(*) FROM {table}").fetchone())
    assert found is not None
    return int(found[0])


async def test_a_second_call_replays_the_first_reply(client: Client) -> None:
    """The same key and order twice: one order, the first reply, `executed` and then `replayed`."""
    calls = []
    for _ in range(2):
        call = client.orders.CreateOrder(create_order(), metadata=key("k"))
        calls.append((await call, trailer(await call.trailing_metadata(), "idempotency-status")))
    (first, executed), (second, replayed) = calls
    assert first == second
    assert (executed, replayed) == ("executed", "replayed")
    assert await rows(client, "shop_orders") == 1
    assert await rows(client, "shop_order_items") == 2


async def test_request_id_is_a_key(client: Client) -> None:
    """Without metadata the request's own field names the operation."""
    first, second = [await client.orders.CreateOrder(create_order(request_id="r")) for _ in range(2)]
    assert first == second
    assert await rows(client, "shop_orders") == 1


async def test_every_write_is_replayed(client: Client) -> None:
    """Each write, sent again with its key, is answered with its first reply and changes nothing more."""
    user = await client.users.CreateUser(create_user())
    await client.users.AddCredit(AddCreditRequest(user_id=user.id, amount=usd(100)))
    spent, back = [
        await client.users.ReserveCredit(ReserveCreditRequest(user_id=user.id, amount=usd(1))) for _ in range(2)
    ]
    order = await client.orders.CreateOrder(create_order())
    changed = UpdateUserRequest(user=User(id=user.id, display_name="G"), update_mask=FieldMask(paths=["display_name"]))
    writes = {
        "CreateUser": (client.users.CreateUser, create_user("b@example.com")),
        "UpdateUser": (client.users.UpdateUser, changed),
        "AddCredit": (client.users.AddCredit, AddCreditRequest(user_id=user.id, amount=usd(1))),
        "ReserveCredit": (client.users.ReserveCredit, ReserveCreditRequest(user_id=user.id, amount=usd(2))),
        "CaptureReservation": (client.users.CaptureReservation, CaptureReservationRequest(id=spent.id)),
        "ReleaseReservation": (client.users.ReleaseReservation, ReleaseReservationRequest(id=back.id)),
        "CreateOrder": (client.orders.CreateOrder, create_order()),
        "AddItem": (client.orders.AddItem, AddItemRequest(order_id=order.id, item=OrderItem(sku="a", quantity=1))),
        "CancelOrder": (client.orders.CancelOrder, CancelOrderRequest(id=order.id)),
        "DeleteUser": (client.users.DeleteUser, DeleteUserRequest(id="none")),
    }
    for name, (method, request) in writes.items():
        answers = []
        for _ in range(2):
            call = method(request, metadata=key(name))  # type: ignore[operator]  # each with its own request
            try:
                answers.append((await call, await call.trailing_metadata()))
            except grpc.aio.AioRpcError as error:
                answers.append(((error.code(), error.details()), error.trailing_metadata()))
        (first, before), (second, after) = answers
        assert first == second, name
        assert trailer(before, "idempotency-status") == "executed", name
        assert trailer(after, "idempotency-status") == "replayed", name
    now = await client.users.GetUser(GetUserRequest(id=user.id))
    assert now.balance == usd(100 + 1 - 1 - 2)


async def test_a_refusal_is_replayed_with_its_details(client: Client) -> None:
    """An error that is final is the operation's outcome as a reply is, to its details."""
    errors = []
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.orders.CreateOrder(create_order(customer_id=""), metadata=key("k"))
        errors.append(refused.value)
    assert [bad_fields(error) for error in errors] == [["customer_id"]] * 2
    assert [trailer(error.trailing_metadata(), "idempotency-status") for error in errors] == ["executed", "replayed"]


async def test_an_overtaken_etag_does_not_use_up_the_key(client: Client) -> None:
    """ABORTED says that nothing happened, so the key is free for the decision that follows."""
    order = await client.orders.CreateOrder(create_order())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.orders.CancelOrder(CancelOrderRequest(id=order.id, etag="old"), metadata=key("k"))
    assert refused.value.code() is grpc.StatusCode.ABORTED
    await client.orders.CancelOrder(CancelOrderRequest(id=order.id, etag=order.etag), metadata=key("k"))


async def test_fifty_duplicates_at_once_make_one_order(client: Client) -> None:
    """One call executes, the others attach to it or replay it; all get the one reply."""
    calls = [client.orders.CreateOrder(create_order(), metadata=key("k")) for _ in range(50)]
    orders = await asyncio.gather(*calls)
    statuses = [trailer(await call.trailing_metadata(), "idempotency-status") for call in calls]
    assert {order.id for order in orders} == {orders[0].id}
    assert statuses.count("executed") == 1
    assert await rows(client, "shop_orders") == 1


async def test_reads_take_no_notice_of_keys(client: Client) -> None:
    """A read has no side effects: with a key it still reads what is there now."""
    order = await client.orders.CreateOrder(create_order())
    request = GetOrderRequest(id=order.id)
    await client.orders.GetOrder(request, metadata=key("k"))
    cancelled = await client.orders.CancelOrder(CancelOrderRequest(id=order.id))
    assert await client.orders.GetOrder(request, metadata=key("k")) == cancelled


async def test_a_key_outlives_the_server(tmp_path: Path) -> None:
    """A shop that is opened again on its file replays what it answered before."""
    async with open_shop(tmp_path / "shop.db") as client:
        first = await client.orders.CreateOrder(create_order(), metadata=key("k"))
    async with open_shop(tmp_path / "shop.db") as client:
        call = client.orders.CreateOrder(create_order(), metadata=key("k"))
        assert await call == first
        assert trailer(await call.trailing_metadata(), "idempotency-status") == "replayed"


async def test_a_keyed_import_is_one(client: Client) -> None:
    """A client-stream that announces its length is imported once, and answered the same again (4.8)."""
    calls = []
    for _ in range(2):
        call = client.orders.ImportOrders(
            iter([create_order(), create_order()]), metadata=(*key("import"), ("idempotency-message-count", "2"))
        )
        calls.append(((await call).count, trailer(await call.trailing_metadata(), "idempotency-status")))
    assert calls == [(2, "executed"), (2, "replayed")]
    assert await rows(client, "shop_orders") == 2


async def test_a_keyed_watch_is_taken_up_again(client: Client) -> None:
    """A watch whose connection was lost gets with the same key what it missed, and follows on to the end (4.3, 4.8)."""
    order = await client.orders.CreateOrder(create_order())
    lost = client.orders.WatchOrder(WatchOrderRequest(id=order.id), metadata=key("watch"))
    assert await anext(aiter(lost)) == order
    lost.cancel()
    changed = await client.orders.AddItem(
        AddItemRequest(order_id=order.id, item=OrderItem(sku="MORE", quantity=1)), metadata=key("add")
    )
    again = client.orders.WatchOrder(WatchOrderRequest(id=order.id), metadata=key("watch"))
    messages = aiter(again)
    seen = [await anext(messages)]
    while seen[-1] != changed:
        seen.append(await anext(messages))
    assert seen[0] == order
    cancelled = await client.orders.CancelOrder(CancelOrderRequest(id=order.id), metadata=key("cancel"))
    seen += [message async for message in messages]
    assert seen[-1] == cancelled
    assert trailer(await again.trailing_metadata(), "idempotency-status") == "attached"
    replay = client.orders.WatchOrder(WatchOrderRequest(id=order.id), metadata=key("watch"))
    assert [message async for message in replay] == seen
    assert trailer(await replay.trailing_metadata(), "idempotency-status") == "replayed"


async def test_a_write_that_could_not_be_committed_runs_again(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store fails a keyed call's transaction: nothing is kept, the call is told so, and its retry succeeds."""

    async def fails(*_: object, **__: object) -> None:
        raise StoreUnavailable("down, for the test")

    with monkeypatch.context() as patched:
        patched.setattr(client.shop.data._store, "transaction", fails)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.orders.CreateOrder(create_order(), metadata=key("k"))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        told = refused.value.details() or ""
        assert "could not be committed" in told or "Nothing has changed" in told
    await client.orders.CreateOrder(create_order(), metadata=key("k"))
    assert await rows(client, "shop_orders") == 1
