"""The handlers on ``grpc.aio``."""

import asyncio
from typing import Any, Literal

import aiosqlite
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from bench import orders
from bench.setup import Synchronous
from grpc_idempotency.transactions import AsyncTransactionalStore, Database
from shop.orders.v1.orders_pb2 import CreateOrderRequest, Order

Context = grpc.aio.ServicerContext[Any, Any]


class Echo:
    """A trivial handler that replies with the number of its runs, so that no two executions have the same reply."""

    def __init__(self, reply_length: int) -> None:
        self._length = reply_length
        self._count = 0

    async def handle(self, _request: StringValue, _context: Context) -> StringValue:
        self._count += 1
        return StringValue(value=str(self._count).zfill(self._length))

    def effects(self) -> int:
        return self._count

    async def close(self) -> None:
        pass


class Orders:
    """CreateOrder without the library: one connection, one transaction and one commit per call."""

    def __init__(self, db: aiosqlite.Connection, database: str) -> None:
        self._db = db
        self._database = database
        self._turn = asyncio.Lock()

    @classmethod
    async def open(cls, database: str, synchronous: Synchronous) -> "Orders":
        db = await connect(database, synchronous)
        orders.SQLITE.create(database)
        return cls(db, database)

    async def handle(self, request: CreateOrderRequest, _context: Context) -> Order:
        order = orders.new(request)
        async with self._turn:
            await self._db.execute("BEGIN IMMEDIATE")
            await self._db.execute(orders.SQLITE.new_order, orders.row(order))
            await self._db.executemany(orders.SQLITE.new_item, orders.item_rows(order))
            await self._db.execute("COMMIT")
        return order

    def effects(self) -> int:
        return orders.SQLITE.count(self._database)

    async def close(self) -> None:
        await self._db.close()


class TransactionalOrders:
    """CreateOrder with ``store.transaction``."""

    def __init__(self, store: AsyncTransactionalStore, tables: orders.Tables, database: str) -> None:
        self._store = store
        self._tables = tables
        self._database = database
        tables.create(database)

    async def handle(self, request: CreateOrderRequest, _context: Context) -> Order:
        def create(db: Database) -> Order:
            order = orders.new(request)
            db.execute(self._tables.new_order, orders.row(order))
            db.executemany(self._tables.new_item, orders.item_rows(order))
            return order

        return await self._store.transaction(create)

    def effects(self) -> int:
        return self._tables.count(self._database)

    async def close(self) -> None:
        pass


async def connect(
    database: str, synchronous: Synchronous, *, isolation_level: Literal["DEFERRED"] | None = None
) -> aiosqlite.Connection:
    """Opens a connection to a file in WAL mode, like the store's."""
    db = await aiosqlite.connect(database, isolation_level=isolation_level)
    await db.execute("PRAGMA journal_mode = WAL")
    await db.execute(f"PRAGMA synchronous = {synchronous}")
    return db
