"""A server for Kubernetes: it answers health checks, and stops in the time that its manifest gives it."""

import asyncio
import os
import uuid
from datetime import timedelta
from typing import Any

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from grpc_idempotency.aio import IdempotencyInterceptor, serve, store_from_url
from shop.orders.v1 import orders_pb2, orders_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
SERVICE = "shop.orders.v1.OrderService"
GRACE = timedelta(seconds=20)
DRAIN_LIMIT = timedelta(seconds=30)


class Orders(orders_pb2_grpc.OrderServiceServicer):
    async def CreateOrder(self, request: orders_pb2.CreateOrderRequest, context: Context) -> orders_pb2.Order:
        return orders_pb2.Order(id=uuid.uuid4().hex, customer_id=request.customer_id)


async def main() -> None:
    store = store_from_url(os.environ.get("STORE", "sqlite:///idempotency.db"))
    interceptor = IdempotencyInterceptor(store, drain_limit=DRAIN_LIMIT)
    server = grpc.aio.server(interceptors=[interceptor])
    interceptor.attach(server)
    orders_pb2_grpc.add_OrderServiceServicer_to_server(Orders(), server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    server.add_insecure_port(os.environ.get("LISTEN", "127.0.0.1:50051"))
    await checks.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    await serve(server, grace=GRACE, before_stop=checks.enter_graceful_shutdown)


if __name__ == "__main__":
    asyncio.run(main())
