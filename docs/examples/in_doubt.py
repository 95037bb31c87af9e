"""A handler that says so when it can't know whether it has charged a card."""

import asyncio
from typing import Any

import grpc.aio

from grpc_idempotency import OutcomeUnknown
from grpc_idempotency.aio import IdempotencyInterceptor, SQLiteStore, serve
from shop.orders.v1 import orders_pb2, orders_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class Payments:
    """A stand-in for a payment provider that knows no keys."""

    async def charge(self, customer: str) -> str:
        if customer == "cust_slow":
            raise TimeoutError
        return f"charge-{customer}"


class Orders(orders_pb2_grpc.OrderServiceServicer):
    def __init__(self, payments: Payments) -> None:
        self._payments = payments

    async def CreateOrder(self, request: orders_pb2.CreateOrderRequest, context: Context) -> orders_pb2.Order:
        try:
            charge = await self._payments.charge(request.customer_id)
        except TimeoutError as error:
            raise OutcomeUnknown(f"look up the last charge of {request.customer_id}") from error
        return orders_pb2.Order(id=charge, customer_id=request.customer_id)


async def main() -> None:
    interceptor = IdempotencyInterceptor(SQLiteStore("idempotency.db"))
    server = grpc.aio.server(interceptors=[interceptor])
    interceptor.attach(server)
    orders_pb2_grpc.add_OrderServiceServicer_to_server(Orders(Payments()), server)
    server.add_insecure_port("127.0.0.1:50051")
    await serve(server)


if __name__ == "__main__":
    asyncio.run(main())
