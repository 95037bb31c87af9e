"""A handler in steps. Each is run once, and in the end all of them are done, or all are undone."""

import asyncio
import uuid
from typing import Any

import grpc.aio

from grpc_idempotency import Database, Effects, Policy
from grpc_idempotency.aio import IdempotencyInterceptor, SQLiteStore, current_operation, serve
from shop.orders.v1 import orders_pb2, orders_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class Payments:
    """A stand-in for a payment provider."""

    async def charge(self, customer: str) -> str:
        print("charged", customer, flush=True)
        return f"charge-{customer}"

    async def refund(self, charge: str) -> None:
        print("refunded", charge, flush=True)


class Orders(orders_pb2_grpc.OrderServiceServicer):
    def __init__(self, payments: Payments) -> None:
        self._payments = payments

    async def CreateOrder(self, request: orders_pb2.CreateOrderRequest, context: Context) -> orders_pb2.Order:
        operation = current_operation()
        assert operation is not None  # the policy requires a key
        order = orders_pb2.Order(id=uuid.uuid4().hex, customer_id=request.customer_id)

        order = await operation.step("begin", lambda: order)
        await operation.step("charge", lambda: self._payments.charge(order.customer_id), undo=self._payments.refund)
        await operation.step("insert", lambda db: insert(db, order), undo=delete, transaction=True)

        if not request.items:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "There is nothing to deliver")
        return order


def insert(db: Database, order: orders_pb2.Order) -> str:
    db.execute("INSERT INTO orders (id, customer_id) VALUES (?, ?)", (order.id, order.customer_id))
    return order.id


def delete(db: Database, order_id: str) -> None:
    db.execute("DELETE FROM orders WHERE id = ?", (order_id,))


def create_tables(db: Database) -> None:
    db.execute("CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, customer_id TEXT NOT NULL)")


async def main() -> None:
    store = SQLiteStore("orders.db")
    await store.transaction(create_tables)
    interceptor = IdempotencyInterceptor(
        store,
        methods={"/shop.orders.v1.OrderService/CreateOrder": Policy(effects=Effects.REPEATABLE, required=True)},
    )
    server = grpc.aio.server(interceptors=[interceptor])
    interceptor.attach(server)
    orders_pb2_grpc.add_OrderServiceServicer_to_server(Orders(Payments()), server)
    server.add_insecure_port("127.0.0.1:50051")
    await serve(server)


if __name__ == "__main__":
    asyncio.run(main())
