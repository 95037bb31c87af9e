"""A server whose store is chosen by an environment variable."""

import asyncio
import os
import uuid
from typing import Any

import grpc.aio

from grpc_idempotency.aio import IdempotencyInterceptor, serve, store_from_url
from shop.orders.v1 import orders_pb2, orders_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class Orders(orders_pb2_grpc.OrderServiceServicer):
    async def CreateOrder(self, request: orders_pb2.CreateOrderRequest, context: Context) -> orders_pb2.Order:
        return orders_pb2.Order(id=uuid.uuid4().hex, customer_id=request.customer_id)


async def main() -> None:
    store = store_from_url(os.environ.get("STORE", "sqlite:///idempotency.db"))
    interceptor = IdempotencyInterceptor(store)
    server = grpc.aio.server(interceptors=[interceptor])
    interceptor.attach(server)
    orders_pb2_grpc.add_OrderServiceServicer_to_server(Orders(), server)
    server.add_insecure_port("127.0.0.1:50051")
    await serve(server)


if __name__ == "__main__":
    asyncio.run(main())
