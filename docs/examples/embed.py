"""The settings of an embedder, behind an interceptor that authenticates.

Start it with a secret: ``IDEMPOTENCY_SECRET=$(openssl rand -hex 16) python embed.py``.
"""

import asyncio
import logging
import os
import sys
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import grpc.aio

from grpc_idempotency import Caller, Code, Disposition, Effects, Policy
from grpc_idempotency.aio import IdempotencyInterceptor, SQLiteStore, serve
from shop.orders.v1 import orders_pb2, orders_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

USERS = {"secret-of-ada": "ada", "secret-of-bob": "bob"}


def user_of(metadata: Any) -> str | None:
    return USERS.get(dict(metadata).get("x-token", ""))


class Authenticate(grpc.aio.ServerInterceptor):
    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        if user_of(handler_call_details.invocation_metadata):
            return await continuation(handler_call_details)

        async def refuse(request: Any, context: Context) -> None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "Send a token.")

        return grpc.unary_unary_rpc_method_handler(refuse)


def principal(caller: Caller) -> str | None:
    return user_of(caller.metadata)


def idempotency(store: SQLiteStore, secret: bytes) -> IdempotencyInterceptor:
    return IdempotencyInterceptor(
        store,
        policy=Policy(ttl=timedelta(days=7)),
        methods={
            "/shop.orders.v1.OrderService/CreateOrder": Policy(
                required=True,
                headers=("idempotency-key", "x-idempotency-key"),
                ttl=timedelta(days=7),
                wait=timedelta(seconds=5),
                statuses={Code.NOT_FOUND: Disposition.RELEASE},
            ),
            "/shop.orders.v1.OrderService/Cancel*": Policy(effects=Effects.REPEATABLE),
        },
        principal=principal,
        secret=secret,
    )


def secret_of_environment() -> bytes:
    secret = os.environ.get("IDEMPOTENCY_SECRET", "")
    if not secret:
        sys.exit("IDEMPOTENCY_SECRET is not set. Make one, and keep it: openssl rand -hex 16")
    return secret.encode()


class Orders(orders_pb2_grpc.OrderServiceServicer):
    async def CreateOrder(self, request: orders_pb2.CreateOrderRequest, context: Context) -> orders_pb2.Order:
        return orders_pb2.Order(id=uuid.uuid4().hex, customer_id=request.customer_id)


async def main() -> None:
    logging.basicConfig(level=logging.INFO)
    interceptor = idempotency(SQLiteStore("idempotency.db"), secret_of_environment())
    server = grpc.aio.server(interceptors=[Authenticate(), interceptor])
    interceptor.attach(server)
    orders_pb2_grpc.add_OrderServiceServicer_to_server(Orders(), server)
    server.add_insecure_port("127.0.0.1:50051")
    await serve(server)


if __name__ == "__main__":
    asyncio.run(main())
