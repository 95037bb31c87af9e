"""A server whose metrics Prometheus scrapes."""

import asyncio
import os
import uuid
from typing import Any

import grpc.aio
from prometheus_client import start_http_server

from grpc_idempotency import prometheus
from grpc_idempotency.aio import IdempotencyInterceptor, SQLiteStore, serve
from grpc_idempotency.metrics import Metrics
from shop.orders.v1 import orders_pb2, orders_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class Orders(orders_pb2_grpc.OrderServiceServicer):
    async def CreateOrder(self, request: orders_pb2.CreateOrderRequest, context: Context) -> orders_pb2.Order:
        return orders_pb2.Order(id=uuid.uuid4().hex, customer_id=request.customer_id)


async def main() -> None:
    metrics = Metrics()
    prometheus.register(metrics)
    start_http_server(int(os.environ.get("METRICS_PORT", "9464")))

    interceptor = IdempotencyInterceptor(SQLiteStore("idempotency.db"), observers=[metrics])
    server = grpc.aio.server(interceptors=[interceptor])
    interceptor.attach(server)
    orders_pb2_grpc.add_OrderServiceServicer_to_server(Orders(), server)
    server.add_insecure_port("127.0.0.1:50051")
    await serve(server)


if __name__ == "__main__":
    asyncio.run(main())
