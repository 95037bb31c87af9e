"""Handlers that open their transactions themselves: their rows and the reply commit together."""

import uuid
from typing import TYPE_CHECKING, Any

import grpc.aio
import psycopg
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from grpc_idempotency.aio import PostgresStore
from shop.orders.v1 import orders_pb2, orders_pb2_grpc

if TYPE_CHECKING:
    import asyncpg

Context = grpc.aio.ServicerContext[Any, Any]


class PsycopgOrders(orders_pb2_grpc.OrderServiceServicer):
    def __init__(self, store: PostgresStore, url: str) -> None:
        self._store = store
        self._url = url

    async def CreateOrder(self, request: orders_pb2.CreateOrderRequest, context: Context) -> orders_pb2.Order:
        order = orders_pb2.Order(id=uuid.uuid4().hex, customer_id=request.customer_id)
        async with await psycopg.AsyncConnection.connect(self._url) as connection:
            await connection.execute("INSERT INTO orders VALUES (%s, %s)", (order.id, order.customer_id))
            return await self._store.complete_in(connection, order)


class AsyncpgOrders(orders_pb2_grpc.OrderServiceServicer):
    def __init__(self, store: PostgresStore, pool: "asyncpg.Pool[Any]") -> None:
        self._store = store
        self._pool = pool

    async def CreateOrder(self, request: orders_pb2.CreateOrderRequest, context: Context) -> orders_pb2.Order:
        order = orders_pb2.Order(id=uuid.uuid4().hex, customer_id=request.customer_id)
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("INSERT INTO orders VALUES ($1, $2)", order.id, order.customer_id)
            return await self._store.complete_in(connection, order)


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "orders"

    id: Mapped[str] = mapped_column(primary_key=True)
    customer_id: Mapped[str]


class SQLAlchemyOrders(orders_pb2_grpc.OrderServiceServicer):
    def __init__(self, store: PostgresStore, engine: AsyncEngine) -> None:
        self._store = store
        self._engine = engine

    async def CreateOrder(self, request: orders_pb2.CreateOrderRequest, context: Context) -> orders_pb2.Order:
        order = orders_pb2.Order(id=uuid.uuid4().hex, customer_id=request.customer_id)
        async with AsyncSession(self._engine) as session, session.begin():
            session.add(Row(id=order.id, customer_id=order.customer_id))
            return await self._store.complete_in(session, order)
