"""An embedder's server on ``grpc.aio``, as type checkers see it."""

from datetime import timedelta
from typing import Any

import grpc.aio
import psycopg
from typing_extensions import assert_type

from grpc_idempotency import Code, Database, Disposition, Effects, Policy
from grpc_idempotency.aio import (
    IdempotencyInterceptor,
    MemoryStore,
    Operation,
    PostgresStore,
    RedisStore,
    SQLiteStore,
    current_operation,
)
from shop.orders.v1 import orders_pb2, orders_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

STRICT = Policy(
    effects=Effects.TRANSACTIONAL,
    required=True,
    headers=("idempotency-key", "x-key"),
    ttl=timedelta(days=7),
    statuses={Code.NOT_FOUND: Disposition.RELEASE},
    recover=None,
)


class Orders(orders_pb2_grpc.OrderServiceServicer):
    def __init__(self, store: SQLiteStore) -> None:
        self._store = store

    async def CreateOrder(self, request: orders_pb2.CreateOrderRequest, context: Context) -> orders_pb2.Order:
        def create(db: Database) -> orders_pb2.Order:
            row = db.execute("SELECT count(*) FROM orders WHERE customer_id = ?", (request.customer_id,)).fetchone()
            assert_type(row, tuple[Any, ...] | None)
            try:
                with db.savepoint():
                    db.executemany("INSERT INTO orders (id) VALUES (?)", [("a",), ("b",)])
            except db.IntegrityError:
                pass
            return orders_pb2.Order(customer_id=request.customer_id)

        return assert_type(await self._store.transaction(create), orders_pb2.Order)

    async def GetOrder(self, request: orders_pb2.GetOrderRequest, context: Context) -> orders_pb2.Order:
        assert_type(await self._store.read(count), int)
        return orders_pb2.Order(id=request.id)


def count(db: Database) -> int:
    return len(db.execute("SELECT id FROM orders").fetchall())


async def charge() -> str:
    return "charge-1"


async def refund(charged: str) -> None:
    del charged


def plan() -> dict[str, int]:
    return {"parts": 2}


def insert(db: Database) -> int:
    return db.execute("INSERT INTO orders (id) VALUES ('a')").rowcount


def delete(db: Database, inserted: int) -> None:
    db.execute("DELETE FROM orders LIMIT ?", (inserted,))


async def in_steps() -> None:
    """A handler's steps: awaited, plain, and in a transaction; each answers what its function returned."""
    operation = assert_type(current_operation(), Operation | None)
    assert operation is not None
    assert_type(operation.name, bytes)
    assert_type(operation.attempt, int)
    assert_type(operation.principal, bytes)
    assert_type(await operation.step("charge", charge, undo=refund), str)
    assert_type(await operation.step("plan", plan), dict[str, int])
    assert_type(await operation.step("insert", insert, undo=delete, transaction=True), int)


async def serve() -> None:
    """Every argument of the interceptor, on a server that it is attached to."""
    store = SQLiteStore("orders.db", busy_timeout=timedelta(seconds=5), synchronous="FULL", foreign_keys=True)
    interceptor = IdempotencyInterceptor(
        store,
        policy=Policy(),
        methods={"/shop.orders.v1.OrderService/*": STRICT},
        secret=b"0123456789abcdef",
        sweep_every=None,
        drain_limit=timedelta(seconds=5),
        max_detached=100,
    )
    server = grpc.aio.server(interceptors=[interceptor])
    interceptor.attach(server)
    orders_pb2_grpc.add_OrderServiceServicer_to_server(Orders(store), server)
    await interceptor.close()
    IdempotencyInterceptor(MemoryStore())


async def on_many_hosts() -> None:
    """Stores that many hosts share, and both kinds of functions of their transactions."""
    IdempotencyInterceptor(RedisStore("redis://127.0.0.1", prefix="shop", replicas=1))
    store = PostgresStore("postgresql://127.0.0.1/shop", schema="shop", max_connections=4, migrate=False)

    def plain(db: Database) -> orders_pb2.Order:
        db.execute("INSERT INTO orders VALUES (%s)", ("a",))
        return orders_pb2.Order()

    async def awaited(connection: psycopg.AsyncConnection[Any]) -> orders_pb2.Order:
        async with connection.transaction():
            await connection.execute("INSERT INTO orders VALUES (%s)", ("a",))
        return orders_pb2.Order()

    assert_type(await store.transaction(plain), orders_pb2.Order)
    assert_type(await store.transaction(awaited), orders_pb2.Order)
    async with await psycopg.AsyncConnection.connect() as connection:
        assert_type(await store.complete_in(connection, orders_pb2.Order()), orders_pb2.Order)
