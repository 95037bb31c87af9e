"""The shop on each engine: where rows and operations are, and what happens to one row at the same time."""

import asyncio
import uuid
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import psycopg
import pytest
from tests.shop.helpers import Client, create_order, create_user, open_shop_on, reason, trailer, usd

import grpc_idempotency
from grpc_idempotency import Effects, Reason, StoreUnavailable, refusal_of
from grpc_idempotency.operator_store import AsyncOperatorStore
from shop.config import Config
from shop.database import Database, engine_of
from shop.orders import rows
from shop.orders.v1.orders_pb2 import (
    AddItemRequest,
    CheckoutRequest,
    GetOrderRequest,
    ListOrdersRequest,
    Order,
    OrderItem,
)
from shop.schema import MIGRATIONS, SchemaTooNew, migrate
from shop.server import CannotServe, serving
from shop.users.v1.users_pb2 import AddCreditRequest, GetUserRequest, ReserveCreditRequest, UpdateUserRequest, User

ENGINES = ["sqlite", "postgresql", "redis"]


def key() -> tuple[tuple[str, str], ...]:
    return (("idempotency-key", uuid.uuid4().hex),)


async def all_of(*calls: Any) -> list[Any]:
    """The replies of calls that are made at once, and the reasons of those that were refused."""
    answers = await asyncio.gather(*calls, return_exceptions=True)
    return [reason(one) if isinstance(one, grpc.aio.AioRpcError) else one for one in answers]


async def test_no_credit_is_lost_or_spent_twice(client: Client) -> None:
    """Calls that change one wallet at once take turns."""
    user = await client.user()
    credit = AddCreditRequest(user_id=user.id, amount=usd(1))
    await all_of(*(client.users.AddCredit(credit, metadata=key()) for _ in range(20)))
    reservation = ReserveCreditRequest(user_id=user.id, amount=usd(1))
    reserved = await all_of(*(client.users.ReserveCredit(reservation, metadata=key()) for _ in range(25)))
    assert reserved.count("BALANCE_TOO_SMALL") == 5
    assert (await client.users.GetUser(GetUserRequest(id=user.id))).balance == usd(0)


async def test_no_item_is_lost(client: Client) -> None:
    """Items that are added to one order at once are all added."""
    order = await client.orders.CreateOrder(create_order())
    adding = [AddItemRequest(order_id=order.id, item=OrderItem(sku=f"added-{n}", quantity=1)) for n in range(20)]
    await all_of(*(client.orders.AddItem(one, metadata=key()) for one in adding))
    found = await client.orders.GetOrder(GetOrderRequest(id=order.id))
    assert list(found.items[: len(order.items)]) == list(order.items)
    assert {item.sku for item in found.items[len(order.items) :]} == {one.item.sku for one in adding}
    assert len(found.items) == len(order.items) + len(adding)


async def test_an_email_address_has_one_user(client: Client) -> None:
    """Of users who take one email address at once, one gets it."""
    users = [await client.user(f"{n}@example.com") for n in range(5)]
    taking = [
        UpdateUserRequest(user=User(id=user.id, email="x@example.com"), update_mask={"paths": ["email"]})
        for user in users
    ]
    answers = await all_of(*(client.users.UpdateUser(one, metadata=key()) for one in taking))
    assert answers.count("EMAIL_TAKEN") == 4
    created = await all_of(*(client.users.CreateUser(create_user("y@example.com"), metadata=key()) for _ in range(5)))
    assert created.count("EMAIL_TAKEN") == 4


async def test_effects_are_those_of_the_engine(client: Client, engine: str) -> None:
    """A write is transactional where its rows and its reply are in one database, else it is opaque (9.2)."""
    user = await client.user()
    order = await client.orders.CreateOrder(create_order(customer_id=user.id, total_amount=usd(0)), metadata=key())
    await client.orders.Checkout(CheckoutRequest(order_id=order.id), metadata=key())
    found = {
        one.method.rpartition("/")[2]: one.effects for one in await cast(AsyncOperatorStore, client.shop.store).list()
    }
    opaque = engine == "redis"
    assert found == {
        "CreateOrder": Effects.OPAQUE if opaque else Effects.TRANSACTIONAL,
        "Checkout": Effects.OPAQUE if opaque else Effects.REPEATABLE,
    }


async def test_shops_that_start_at_once(config: Config) -> None:
    """Several shops may begin one new database at once; a key's second call may go to any of them."""

    async def served(_: int) -> tuple[Order, str | None]:
        async with open_shop_on(config) as client:
            call = client.orders.CreateOrder(create_order(), metadata=(("idempotency-key", "k"),))
            return await call, trailer(await call.trailing_metadata(), "idempotency-status")

    answers = await asyncio.gather(*map(served, range(4)))
    assert len({order.id for order, _ in answers}) == 1
    assert [how for _, how in answers].count("executed") == 1


async def test_tables_of_a_newer_shop(config: Config) -> None:
    """A database of a newer shop is refused, and left as it is."""
    async with open_shop_on(config) as client:
        await client.shop.data.transaction(lambda db: db.execute("UPDATE shop_schema SET version = version + 1"))
        with pytest.raises(SchemaTooNew):
            await client.shop.data.transaction(migrate)
    with pytest.raises(CannotServe, match=f"version {len(MIGRATIONS) + 1}"):
        async with serving(config):
            pass


@pytest.mark.slow
async def test_rows_and_reply_are_in_one_database(postgresql: str) -> None:
    """On PostgreSQL an order and the reply of its call are in one database."""
    async with open_shop_on(Config(port=0, store=postgresql)) as client:
        order = await client.orders.CreateOrder(create_order(), metadata=key())
    with psycopg.connect(postgresql) as db:
        replies = db.execute("SELECT message FROM idempotency.operations").fetchall()
        assert [Order.FromString(reply) for (reply,) in replies] == [order]
        assert db.execute("SELECT id FROM shop_orders").fetchall() == [(order.id,)]


@pytest.mark.slow
async def test_keys_in_redis_and_rows_in_postgresql(postgresql: str, redis_url: str) -> None:
    """The rows of a shop on Redis may be in PostgreSQL."""
    config = Config(port=0, store=redis_url, database=postgresql)
    async with open_shop_on(config) as first, open_shop_on(config) as other:
        calls = [
            client.orders.CreateOrder(create_order(), metadata=(("idempotency-key", "k"),)) for client in (first, other)
        ]
        orders = [await call for call in calls]
        assert orders[0] == orders[1]
    with psycopg.connect(postgresql) as db:
        assert db.execute("SELECT id FROM shop_orders").fetchall() == [(orders[0].id,)]


async def test_a_commit_whose_answer_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rows and reply are not committed together, nobody can know of such a call, so it is held (4.5, 9.2)."""
    config = Config(port=0, store="memory:", database=f"sqlite:///{tmp_path / 'rows.db'}")
    async with open_shop_on(config) as client:
        store: Any = client.shop.data._store
        transaction = store.transaction

        async def lost(fn: Any) -> None:
            await transaction(fn)
            raise StoreUnavailable("the answer was lost, for the test", landed=None)

        held = key()
        monkeypatch.setattr(store, "transaction", lost)
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await client.orders.CreateOrder(create_order(), metadata=held)
            refusal = refusal_of(unknown.value)
            assert refusal is not None
            assert refusal.reason is Reason.OUTCOME_UNKNOWN
        assert await all_of(client.orders.CreateOrder(create_order())) == ["DATABASE_UNAVAILABLE"]
        monkeypatch.undo()
        assert len((await client.orders.ListOrders(ListOrdersRequest())).orders) == 2


@pytest.mark.parametrize("name", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_the_rows_on_threads(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The functions on rows work with the stores for ``grpc.server``, too."""
    url = request.getfixturevalue("postgresql") if name == "postgresql" else f"sqlite:///{tmp_path / 'shop.db'}"
    kind = engine_of(url)
    assert kind is not None
    store: Any = grpc_idempotency.store_from_url(url)
    store.open()
    try:
        store.transaction(lambda db: migrate(Database(db, kind)))
        order = store.transaction(lambda db: rows.insert_order(Database(db, kind), create_order()))
        assert store.read(lambda db: rows.read_order(Database(db, kind), order.id)) == order
    finally:
        store.close()
