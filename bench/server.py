"""A server to measure: ``python -m bench.server CASE SIDE DATABASE``, with the interceptor or without."""

import asyncio
import sys
import time
import uuid
from typing import Any, Protocol

import aiosqlite
import grpc.aio
from google.protobuf.wrappers_pb2 import Int64Value, StringValue

from bench.cases import ECHO, ORDER
from bench.processes import stay_on_cpus, take_orders
from grpc_idempotency import Effects, Policy
from grpc_idempotency.aio import IdempotencyInterceptor, SQLiteStore
from grpc_idempotency.store import Database
from shop.orders.v1.orders_pb2 import CreateOrderRequest, Order

_TABLES = """
CREATE TABLE orders (
    id TEXT PRIMARY KEY, customer_id TEXT, currency TEXT, units INTEGER, nanos INTEGER, made_ms INTEGER
);
CREATE TABLE items (id INTEGER PRIMARY KEY, order_id TEXT NOT NULL, sku TEXT NOT NULL, quantity INTEGER NOT NULL);
"""
_NEW_ORDER = "INSERT INTO orders (id, customer_id, currency, units, nanos, made_ms) VALUES (?, ?, ?, ?, ?, ?)"
_NEW_ITEM = "INSERT INTO items (order_id, sku, quantity) VALUES (?, ?, ?)"
_Context = grpc.aio.ServicerContext[Any, Any]


class Service(Protocol):
    """What is served; ``effects`` says how often it took effect."""

    async def handle(self, request: Any, context: Any) -> Any:
        """The one method."""

    async def effects(self) -> int:
        """How often it took effect since the server's start."""

    async def close(self) -> None:
        """Once the server has stopped."""


class Echo:
    """A trivial handler: counts, and answers the count, so that no two executions have the same reply."""

    def __init__(self) -> None:
        self._count = 0

    async def handle(self, _request: StringValue, _context: _Context) -> Int64Value:
        self._count += 1
        return Int64Value(value=self._count)

    async def effects(self) -> int:
        return self._count

    async def close(self) -> None:
        pass


class Orders:
    """CreateOrder as its service would be without this project: a transaction and a commit per call."""

    def __init__(self, db: aiosqlite.Connection) -> None:
        self._db = db
        self._turn = asyncio.Lock()

    @classmethod
    async def open(cls, database: str) -> "Orders":
        db = await aiosqlite.connect(database, isolation_level=None)
        await db.execute("PRAGMA journal_mode = WAL")
        await db.execute("PRAGMA synchronous = FULL")
        await db.executescript(_TABLES)
        return cls(db)

    async def handle(self, request: CreateOrderRequest, _context: _Context) -> Order:
        order = _new(request)
        async with self._turn:
            await self._db.execute("BEGIN IMMEDIATE")
            await self._db.execute(_NEW_ORDER, _row(order))
            await self._db.executemany(_NEW_ITEM, _item_rows(order))
            await self._db.execute("COMMIT")
        return order

    async def effects(self) -> int:
        return await _count(self._db)

    async def close(self) -> None:
        await self._db.close()


class OrdersInTransactions:
    """CreateOrder with ``store.transaction``."""

    def __init__(self, store: SQLiteStore, database: str) -> None:
        self._store = store
        self._database = database

    @classmethod
    async def open(cls, store: SQLiteStore, database: str) -> "OrdersInTransactions":
        async with aiosqlite.connect(database) as db:
            await db.executescript(_TABLES)
        return cls(store, database)

    async def handle(self, request: CreateOrderRequest, _context: _Context) -> Order:
        def create(db: Database) -> Order:
            order = _new(request)
            db.execute(_NEW_ORDER, _row(order))
            db.executemany(_NEW_ITEM, _item_rows(order))
            return order

        return await self._store.transaction(create)

    async def effects(self) -> int:
        async with aiosqlite.connect(self._database) as db:
            return await _count(db)

    async def close(self) -> None:
        pass


def _new(request: CreateOrderRequest) -> Order:
    order = Order(
        id=uuid.uuid4().hex,
        customer_id=request.customer_id,
        items=request.items,
        total_amount=request.total_amount,
        state=Order.STATE_PENDING,
    )
    order.create_time.GetCurrentTime()
    return order


def _row(order: Order) -> tuple[Any, ...]:
    total = order.total_amount
    made_ms = order.create_time.ToMilliseconds()
    return order.id, order.customer_id, total.currency_code, total.units, total.nanos, made_ms


def _item_rows(order: Order) -> list[tuple[Any, ...]]:
    return [(order.id, item.sku, item.quantity) for item in order.items]


async def _count(db: aiosqlite.Connection) -> int:
    """How many orders there are; each must have its three items."""
    async with db.execute("SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM items)") as cursor:
        row = await cursor.fetchone()
    assert row is not None
    orders, items = row
    assert items == 3 * orders, f"{orders} orders have {items} items"
    return int(orders)


class Serving:
    """One server, and what there is to ask of it."""

    def __init__(self, port: int, service: Service) -> None:
        self._port = port
        self._service = service

    async def answer(self, _order: dict[str, Any]) -> dict[str, Any]:
        """The port, the processor time used so far, and the number of effects."""
        cpu = time.process_time()  # before the effects are counted
        return {"port": self._port, "cpu": cpu, "effects": await self._service.effects()}


async def _serve(case: str, side: str, database: str) -> None:
    interceptors = []
    service: Service = await Orders.open(database) if (case, side) == ("order", "bare") else Echo()
    if side == "guarded":
        store = SQLiteStore(database)
        await store.open()
        effects = Effects.TRANSACTIONAL if case == "order" else Effects.OPAQUE
        interceptors.append(IdempotencyInterceptor(store, policy=Policy(effects=effects)))
        if case == "order":
            service = await OrdersInTransactions.open(store, database)
    server = grpc.aio.server(interceptors=interceptors, options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([_handlers(case, service)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await take_orders(Serving(port, service).answer)
    await server.stop(None)
    for interceptor in interceptors:
        await interceptor.close()
    await service.close()


def _handlers(case: str, service: Service) -> grpc.GenericRpcHandler:
    request: Any = CreateOrderRequest if case == "order" else StringValue
    reply: Any = Order if case == "order" else Int64Value
    _, name, method = (ORDER if case == "order" else ECHO).split("/")
    handler = grpc.unary_unary_rpc_method_handler(service.handle, request.FromString, reply.SerializeToString)
    return grpc.method_handlers_generic_handler(name, {method: handler})


if __name__ == "__main__":
    stay_on_cpus()
    asyncio.run(_serve(*sys.argv[1:]))
