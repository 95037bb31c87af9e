"""Interceptors on both sides: one that authenticates is outside, one that counts executions is inside."""

import asyncio
import contextvars
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio

from grpc_idempotency import Caller
from grpc_idempotency.aio import IdempotencyInterceptor, SQLiteStore, serve
from shop.orders.v1 import orders_pb2, orders_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]

USERS = {"secret-of-ada": "ada", "secret-of-bob": "bob"}
user: contextvars.ContextVar[str] = contextvars.ContextVar("user")


class Authenticate(grpc.aio.ServerInterceptor):
    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        token = dict(handler_call_details.invocation_metadata or ()).get("x-token")
        if token in USERS:
            user.set(USERS[token])
            return await continuation(handler_call_details)

        async def refuse(request: Any, context: Context) -> None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "Send a token.")

        return grpc.unary_unary_rpc_method_handler(refuse)


def principal(caller: Caller) -> str | None:
    return user.get(None)


class CountExecutions(grpc.aio.ServerInterceptor):
    async def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler

        async def counted(request: Any, context: Context) -> Any:
            print("executing", handler_call_details.method, "for", user.get(), flush=True)
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(counted, handler.request_deserializer, handler.response_serializer)


class Orders(orders_pb2_grpc.OrderServiceServicer):
    async def CreateOrder(self, request: orders_pb2.CreateOrderRequest, context: Context) -> orders_pb2.Order:
        return orders_pb2.Order(id=uuid.uuid4().hex, customer_id=user.get())


async def main() -> None:
    idempotency = IdempotencyInterceptor(SQLiteStore("idempotency.db"), principal=principal)
    server = grpc.aio.server(interceptors=[Authenticate(), idempotency, CountExecutions()])
    idempotency.attach(server)
    orders_pb2_grpc.add_OrderServiceServicer_to_server(Orders(), server)
    server.add_insecure_port("127.0.0.1:50051")
    await serve(server)


if __name__ == "__main__":
    asyncio.run(main())
