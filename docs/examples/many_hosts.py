"""A server that shares its keys with servers on other hosts."""

import asyncio
import os
import uuid
from typing import Any

import grpc.aio
import psycopg

from grpc_idempotency import Database, Effects, Policy
from grpc_idempotency.aio import IdempotencyInterceptor, PostgresStore, serve
from shop.orders.v1 import orders_pb2, orders_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class Orders(orders_pb2_grpc.OrderServiceServicer):
    def __init__(self, store: PostgresStore) -> None:
        self._store = store

    async def CreateOrder(self, request: orders_pb2.CreateOrderRequest, context: Context) -> orders_pb2.Order:
        async def create(connection: psycopg.AsyncConnection[Any]) -> orders_pb2.Order:
            order = orders_pb2.Order(id=uuid.uuid4().hex, customer_id=request.customer_id)
            await connection.execute(
                "INSERT INTO orders (id, customer_id) VALUES (%s, %s)", (order.id, order.customer_id)
            )
            return order

        return await self._store.transaction(create)


def create_tables(db: Database) -> None:
    db.execute("CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, customer_id TEXT NOT NULL)")


async def main() -> None:
    store = PostgresStore(os.environ["DATABASE_URL"])
    interceptor = IdempotencyInterceptor(store, policy=Policy(effects=Effects.TRANSACTIONAL))
    await store.transaction(create_tables)

    server = grpc.aio.server(interceptors=[interceptor])
    interceptor.attach(server)
    orders_pb2_grpc.add_OrderServiceServicer_to_server(Orders(store), server)
    server.add_insecure_port("127.0.0.1:50051")
    await serve(server)


if __name__ == "__main__":
    asyncio.run(main())
