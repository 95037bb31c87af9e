"""A handler that works in steps over two services, all or nothing."""

import asyncio
import os
import uuid
from datetime import timedelta
from typing import Any

import grpc.aio
from google.type.money_pb2 import Money

from grpc_idempotency import Database, Effects, Policy
from grpc_idempotency.aio import IdempotencyInterceptor, SQLiteStore, client_interceptors, current_operation, serve
from shop.orders.v1.orders_pb2 import CheckoutRequest, CreateOrderRequest, Order
from shop.orders.v1.orders_pb2_grpc import OrderServiceServicer, add_OrderServiceServicer_to_server
from shop.users.v1 import users_pb2, users_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class NotPending(Exception):
    pass


class Orders(OrderServiceServicer):
    def __init__(self, store: SQLiteStore, channel: grpc.aio.Channel) -> None:
        self._store = store
        self._users = users_pb2_grpc.UserServiceStub(channel)

    async def Checkout(self, request: CheckoutRequest, context: Context) -> Order:
        operation = current_operation()
        assert operation is not None  # its policy requires a key

        def begin(db: Database) -> list[Any]:
            sql = "UPDATE orders SET state = 'paying' WHERE id = ? AND state = 'pending' RETURNING customer_id, units"
            row = db.execute(sql, (request.order_id,)).fetchone()
            if row is None:
                raise NotPending
            return list(row)

        def reopen(db: Database, _: list[Any]) -> None:
            db.execute("UPDATE orders SET state = 'pending' WHERE id = ?", (request.order_id,))

        async def reserve() -> users_pb2.Reservation:
            amount = Money(currency_code="USD", units=units)
            return await self._users.ReserveCredit(users_pb2.ReserveCreditRequest(user_id=customer_id, amount=amount))

        async def release(reservation: users_pb2.Reservation) -> None:
            await self._users.ReleaseReservation(users_pb2.ReleaseReservationRequest(id=reservation.id))

        async def capture() -> users_pb2.Reservation:
            return await self._users.CaptureReservation(users_pb2.CaptureReservationRequest(id=reservation.id))

        def confirm(db: Database) -> Order:
            db.execute("UPDATE orders SET state = 'confirmed' WHERE id = ?", (request.order_id,))
            return Order(id=request.order_id, customer_id=customer_id, state=Order.STATE_CONFIRMED)

        try:
            customer_id, units = await operation.step("begin", begin, undo=reopen, transaction=True)
            reservation = await operation.step("reserve", reserve, undo=release)
            await operation.step("capture", capture)
        except NotPending:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the order is not pending")
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), f"the user service: {error.details()}")
        return await self._store.transaction(confirm)

    async def CreateOrder(self, request: CreateOrderRequest, context: Context) -> Order:
        def create(db: Database) -> Order:
            order = Order(id=uuid.uuid4().hex, customer_id=request.customer_id, state=Order.STATE_PENDING)
            values = (order.id, order.customer_id, request.total_amount.units)
            db.execute("INSERT INTO orders (id, customer_id, units) VALUES (?, ?, ?)", values)
            return order

        return await self._store.transaction(create)


def create_tables(db: Database) -> None:
    db.execute(
        "CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, customer_id TEXT NOT NULL, units INTEGER NOT NULL,"
        " state TEXT NOT NULL DEFAULT 'pending')"
    )


POLICIES = {
    "/shop.orders.v1.OrderService/Checkout": Policy(
        effects=Effects.REPEATABLE, required=True, max_tries=200, retry_delay=timedelta(seconds=1)
    ),
    "/shop.orders.v1.OrderService/*": Policy(effects=Effects.TRANSACTIONAL),
}


async def main() -> None:
    store = SQLiteStore("orders.db")
    await store.transaction(create_tables)
    address = os.environ.get("USERS", "127.0.0.1:50052")
    async with grpc.aio.insecure_channel(address, interceptors=client_interceptors()) as channel:
        interceptor = IdempotencyInterceptor(store, methods=POLICIES)
        server = grpc.aio.server(interceptors=[interceptor])
        interceptor.attach(server)
        add_OrderServiceServicer_to_server(Orders(store, channel), server)
        server.add_insecure_port("127.0.0.1:50051")
        await serve(server)


if __name__ == "__main__":
    asyncio.run(main())
