"""Transactions that handlers open themselves, with every driver (5.6)."""

import asyncio
import runpy
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg
import django
import django.conf
import django.db
import grpc
import grpc.aio
import psycopg
import pytest
import sqlalchemy
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.ext.asyncio import create_async_engine

from grpc_idempotency import Effects, FenceRefused, IdempotencyInterceptor, Policy, TransactionMisuse, aio
from grpc_idempotency.records import Code, Outcome, State
from grpc_idempotency.stores.postgres import AsyncPostgresStore, PostgresStore
from grpc_idempotency.testing import LEASE, a_claim, keyed, outcome_of
from grpc_idempotency.testing.states import put_running, record_of
from shop.orders.v1.orders_pb2 import CreateOrderRequest, Order
from shop.orders.v1.orders_pb2_grpc import (
    OrderServiceServicer,
    OrderServiceStub,
    add_OrderServiceServicer_to_server,
)

from ..docs.pages import EXAMPLES
from .conftest import Make, MakeBlocking, Place

POLICY = Policy(effects=Effects.TRANSACTIONAL)


@pytest.fixture
def orders(place: Place) -> Place:
    """The place with a table of orders."""
    place.db.execute("CREATE TABLE orders (id text PRIMARY KEY, customer_id text)")
    return place


def ids(place: Place) -> list[str]:
    return [row[0] for row in place.db.execute("SELECT id FROM orders").fetchall()]


def sqlalchemys(place: Place, driver: str) -> str:
    return place.url.replace("postgresql://", f"postgresql+{driver}://")


def asyncpgs(place: Place) -> dict[str, Any]:
    """What asyncpg needs in place of a URL with libpq's options."""
    given = conninfo_to_dict(place.url)
    return {
        "host": given["host"],
        "port": given["port"],
        "user": given["user"],
        "database": given["dbname"],
        "server_settings": {"search_path": place.schema},
    }


# -- the examples


@asynccontextmanager
async def awaited_handlers(driver: str, store: AsyncPostgresStore, place: Place) -> AsyncIterator[OrderServiceServicer]:
    example = runpy.run_path(str(EXAMPLES / "own_transactions.py"))
    if driver == "psycopg":
        yield example["PsycopgOrders"](store, place.url)
    elif driver == "asyncpg":
        async with asyncpg.create_pool(min_size=1, **asyncpgs(place)) as pool:
            yield example["AsyncpgOrders"](store, pool)
    else:
        url, arguments = sqlalchemys(place, driver.partition(" ")[2]), {}
        if driver == "sqlalchemy asyncpg":
            url, arguments = url.partition("?")[0], {"server_settings": {"search_path": place.schema}}
        engine = create_async_engine(url, connect_args=arguments)
        yield example["SQLAlchemyOrders"](store, engine)
        await engine.dispose()


@asynccontextmanager
async def served(
    store: Any, servicer: OrderServiceServicer
) -> AsyncIterator[Callable[..., Awaitable[tuple[Order, str]]]]:
    """Serves on grpc.aio. Gives a function that makes a call, and returns the order and the ``idempotency-status``."""
    server = grpc.aio.server(interceptors=[aio.IdempotencyInterceptor(store, policy=POLICY)])
    add_OrderServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = OrderServiceStub(channel)

        async def call(key: str | None = "k") -> tuple[Order, str]:
            metadata = (("idempotency-key", key),) if key else ()
            making = stub.CreateOrder(CreateOrderRequest(customer_id="cust_1"), metadata=metadata, timeout=20)
            order = await making
            return order, str(dict(await making.trailing_metadata()).get("idempotency-status"))

        yield call
    await server.stop(None)


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg", "sqlalchemy psycopg_async", "sqlalchemy asyncpg"])
async def test_a_reply_commits_with_the_rows_of_an_awaited_driver(driver: str, make: Make, orders: Place) -> None:
    """One key has one order and one reply; without a key each call has its own."""
    store = make()
    async with awaited_handlers(driver, store, orders) as servicer, served(store, servicer) as call:
        first, how = await call()
        assert how == "executed"
        assert await call() == (first, "replayed")
        assert ids(orders) == [first.id]
        (record,) = await store.list()
        assert (record.state, record.outcome and record.outcome.message) == (
            State.COMPLETED,
            first.SerializeToString(),
        )
        assert {(await call(None))[1] for _ in range(2)} == {"None"}
        assert len(ids(orders)) == 3


@contextmanager
def blocking_handlers(driver: str, store: PostgresStore, place: Place) -> Iterator[OrderServiceServicer]:
    if driver == "django":
        given = conninfo_to_dict(place.url)
        database = {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": given["host"],
            "PORT": given["port"],
            "USER": given["user"],
            "NAME": given["dbname"],
            "OPTIONS": {"options": given["options"]},
        }
        if not django.conf.settings.configured:
            django.conf.settings.configure(DATABASES={"default": database})
            django.setup()
        else:
            django.db.connections.settings["default"].update(database)
        example = runpy.run_path(str(EXAMPLES / "own_transactions_sync.py"))

        class Closing(OrderServiceServicer):
            """Closes Django's connection, which belongs to the handler's thread."""

            def CreateOrder(self, request: CreateOrderRequest, context: Any) -> Order:
                try:
                    order: Order = example["DjangoOrders"](store).CreateOrder(request, context)
                    return order
                finally:
                    django.db.connections.close_all()

        yield Closing()
        return
    example = runpy.run_path(str(EXAMPLES / "own_transactions_sync.py"))
    if driver == "psycopg":
        yield example["PsycopgOrders"](store, place.url)
    else:
        engine = sqlalchemy.create_engine(sqlalchemys(place, "psycopg"))
        yield example["SQLAlchemyOrders"](store, engine)
        engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg", "sqlalchemy", "django"])
def test_a_reply_commits_with_the_rows_of_a_blocking_driver(
    driver: str, make_blocking: MakeBlocking, orders: Place
) -> None:
    """The same on a grpc.server."""
    store = make_blocking()
    with blocking_handlers(driver, store, orders) as servicer, ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, interceptors=[IdempotencyInterceptor(store, policy=POLICY)])
        add_OrderServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = OrderServiceStub(channel)

            def call(*metadata: tuple[str, str]) -> tuple[Order, str]:
                order, ended = stub.CreateOrder.with_call(
                    CreateOrderRequest(customer_id="cust_1"), metadata=metadata, timeout=20
                )
                return order, str(dict(ended.trailing_metadata()).get("idempotency-status"))

            first, how = call(("idempotency-key", "k"))
            assert how == "executed"
            assert call(("idempotency-key", "k")) == (first, "replayed")
            assert ids(orders) == [first.id]
            assert call()[1] == "None"
        server.stop(None).wait()
    assert len(ids(orders)) == 2


# -- how a handler may end


class Orders(OrderServiceServicer):
    """A handler that ends its transaction in one of many ways."""

    def __init__(self, place: Place, store: AsyncPostgresStore, ending: str) -> None:
        self._url = place.url
        self._store = store
        self.ending = ending

    async def CreateOrder(self, request: CreateOrderRequest, context: Any) -> Order:
        order = Order(id=uuid.uuid4().hex, customer_id=request.customer_id)
        async with await psycopg.AsyncConnection.connect(self._url) as connection:
            await connection.execute("INSERT INTO orders VALUES (%s, %s)", (order.id, order.customer_id))
            await self._store.complete_in(connection, order)
            if self.ending == "raises before its commit":
                raise RuntimeError("before")
            if self.ending == "rolls back":
                await connection.rollback()
        if self.ending == "raises after its commit":
            raise RuntimeError("after")
        if self.ending == "answers otherwise":
            return Order(id="another")
        return order


async def test_a_handler_that_rolled_back_has_done_nothing(make: Make, orders: Place) -> None:
    """Its reply is not stored, even if it returns it; the next call runs it again."""
    store = make()
    servicer = Orders(orders, store, "rolls back")
    async with served(store, servicer) as call:
        with pytest.raises(grpc.RpcError) as failed:
            await call()
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        servicer.ending = "raises before its commit"
        with pytest.raises(grpc.RpcError) as failed:
            await call()
        assert failed.value.code() is grpc.StatusCode.UNKNOWN
        assert (ids(orders), await store.list()) == ([], [])
        servicer.ending = "returns"
        first, how = await call()
        assert (how, ids(orders)) == ("executed", [first.id])


@pytest.mark.parametrize("ending", ["raises after its commit", "answers otherwise"])
async def test_what_was_committed_is_the_answer(make: Make, orders: Place, ending: str) -> None:
    """The record, looked up by its fence, decides; not what the handler does after its commit."""
    store = make()
    async with served(store, Orders(orders, store, ending)) as call:
        first, how = await call()
        assert (how, [first.id]) == ("executed", ids(orders))
        assert await call() == (first, "replayed")


# -- what is refused


async def test_the_outcome_is_that_of_the_users_transaction(make: Make, orders: Place) -> None:
    """It is there when the user commits, and not before; a renewal in between is busy and loses nothing."""
    store = make()
    claim = await put_running(store)
    async with keyed(store, claim) as operation, await psycopg.AsyncConnection.connect(orders.url) as connection:
        assert await store.complete_in(connection, "a") == "a"
        assert (operation.unconfirmed, operation.committed) == (outcome_of("a"), None)
        assert (await record_of(store, claim)).state is State.RUNNING
        assert (await store.renew(claim.name, claim.fence, LEASE)).value == "busy"
        with pytest.raises(TransactionMisuse):
            await store.complete_in(connection, "b")
        await connection.commit()
    assert (await record_of(store, claim)).outcome == outcome_of("a")


async def test_a_spent_fence_is_refused(make: Make, orders: Place) -> None:
    """The handler has to roll back."""
    store = make()
    async with keyed(store, a_claim()), await psycopg.AsyncConnection.connect(orders.url) as connection:
        with pytest.raises(FenceRefused):
            await store.complete_in(connection, "a")


async def test_a_connection_without_a_transaction_is_refused(make: Make, orders: Place) -> None:
    """In autocommit mode the outcome would be kept without the rows."""
    store = make()
    claim = await put_running(store)
    engine = create_async_engine(sqlalchemys(orders, "psycopg_async"), isolation_level="AUTOCOMMIT")
    asyncpg_connection = await asyncpg.connect(**asyncpgs(orders))
    async with (
        keyed(store, claim),
        await psycopg.AsyncConnection.connect(orders.url, autocommit=True) as connection,
        engine.connect() as alchemy,
    ):
        for one in (connection, alchemy, asyncpg_connection, object()):
            with pytest.raises(TransactionMisuse):
                await store.complete_in(one, "a")
        async with connection.transaction():
            assert await store.complete_in(connection, "a") == "a"
    await engine.dispose()
    await asyncpg_connection.close()
    assert (await record_of(store, claim)).outcome == outcome_of("a")


async def test_a_reply_that_is_no_success_is_refused(make: Make, orders: Place) -> None:
    """Its rows must be rolled back, which only the handler can do."""
    store = make()
    claim = await put_running(store)
    async with (
        keyed(store, claim, lambda _: Outcome(status=Code.NOT_FOUND)) as operation,
        await psycopg.AsyncConnection.connect(orders.url) as connection,
    ):
        with pytest.raises(TransactionMisuse, match="NOT_FOUND"):
            await store.complete_in(connection, "a")
        assert operation.unconfirmed is None


async def test_a_handlers_task_can_not_commit_its_reply(make: Make, orders: Place) -> None:
    """Only the handler can: what its tasks commit is not looked for."""
    store = make()
    claim = await put_running(store)
    async with keyed(store, claim), await psycopg.AsyncConnection.connect(orders.url) as connection:

        async def beside() -> None:
            with pytest.raises(TransactionMisuse):
                await store.complete_in(connection, "a")

        await asyncio.create_task(beside())
        assert await asyncio.create_task(store.complete_in(connection, "a")) == "a"
