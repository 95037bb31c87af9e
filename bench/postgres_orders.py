"""CreateOrder on PostgreSQL: the tables, and the handlers without the library."""

from contextlib import closing
from typing import Any

import grpc
import grpc.aio
import psycopg
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from bench import orders
from shop.orders.v1.orders_pb2 import CreateOrderRequest, Order

CONNECTIONS = 10
"""The connections of a handler's pool: as many as the store has for transactions."""
_TABLES = b"""
CREATE TABLE IF NOT EXISTS orders (
    id TEXT PRIMARY KEY, customer_id TEXT, currency TEXT, units BIGINT, nanos INTEGER, made_ms BIGINT
);
CREATE TABLE IF NOT EXISTS items (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, order_id TEXT NOT NULL, sku TEXT NOT NULL,
    quantity INTEGER NOT NULL
);
"""


def _create(database: str) -> None:
    with closing(psycopg.connect(database, autocommit=True)) as db:
        db.execute(_TABLES)


def _count(database: str) -> int:
    with closing(psycopg.connect(database, autocommit=True)) as db:
        row = db.execute("SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM items)").fetchone()
    assert row is not None
    return orders.orders_of(*row)


_NEW_ORDER = b"INSERT INTO orders (id, customer_id, currency, units, nanos, made_ms) VALUES (%s, %s, %s, %s, %s, %s)"
_NEW_ITEM = b"INSERT INTO items (order_id, sku, quantity) VALUES (%s, %s, %s)"
POSTGRESQL = orders.Tables(new_order=_NEW_ORDER.decode(), new_item=_NEW_ITEM.decode(), create=_create, count=_count)


class AsyncOrders:
    """CreateOrder on ``grpc.aio`` without the library: a pool, and one transaction and one commit per call."""

    def __init__(self, pool: "AsyncConnectionPool[psycopg.AsyncConnection[Any]]", database: str) -> None:
        self._pool = pool
        self._database = database

    @classmethod
    async def open(cls, database: str) -> "AsyncOrders":
        POSTGRESQL.create(database)
        pool = AsyncConnectionPool(database, min_size=CONNECTIONS, open=False)
        await pool.open(wait=True)
        return cls(pool, database)

    async def handle(self, request: CreateOrderRequest, _context: "grpc.aio.ServicerContext[Any, Any]") -> Order:
        order = orders.new(request)
        async with self._pool.connection() as connection, connection.cursor() as cursor:
            await cursor.execute(_NEW_ORDER, orders.row(order))
            await cursor.executemany(_NEW_ITEM, orders.item_rows(order))
        return order

    def effects(self) -> int:
        return POSTGRESQL.count(self._database)

    async def close(self) -> None:
        await self._pool.close()


class Orders:
    """The same on ``grpc.server``."""

    def __init__(self, database: str) -> None:
        POSTGRESQL.create(database)
        self._pool = ConnectionPool(database, min_size=CONNECTIONS, open=True)
        self._pool.wait()
        self._database = database

    def handle(self, request: CreateOrderRequest, _context: grpc.ServicerContext) -> Order:
        order = orders.new(request)
        with self._pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute(_NEW_ORDER, orders.row(order))
            cursor.executemany(_NEW_ITEM, orders.item_rows(order))
        return order

    def effects(self) -> int:
        return POSTGRESQL.count(self._database)

    def close(self) -> None:
        self._pool.close()
