"""A server with an observer of its own: it prints how each call was answered, and which operations are held."""

import asyncio
import queue
import threading
import uuid
from typing import Any

import grpc.aio

from grpc_idempotency.aio import IdempotencyInterceptor, SQLiteStore, serve
from grpc_idempotency.events import CallAnswered, Event, Held
from shop.orders.v1 import orders_pb2, orders_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class Printer:
    """Prints two kinds of events, in a thread of its own: an observer must not wait."""

    events = (CallAnswered, Held)

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._print, daemon=True).start()

    def __call__(self, event: Event) -> None:
        match event:
            case CallAnswered(method=method, status=status, reason=reason, code=code):
                how = reason.name if reason else status.value if status else "without a key"
                self._lines.put(f"{method} {how} {code.name}")
            case Held(method=method, operation=operation, reason=reason):
                self._lines.put(f"{method} {operation.hex()} is held: {reason}")

    def _print(self) -> None:
        while True:
            print(self._lines.get(), flush=True)


class Orders(orders_pb2_grpc.OrderServiceServicer):
    async def CreateOrder(self, request: orders_pb2.CreateOrderRequest, context: Context) -> orders_pb2.Order:
        return orders_pb2.Order(id=uuid.uuid4().hex, customer_id=request.customer_id)


async def main() -> None:
    interceptor = IdempotencyInterceptor(SQLiteStore("idempotency.db"), observers=[Printer()])
    server = grpc.aio.server(interceptors=[interceptor])
    interceptor.attach(server)
    orders_pb2_grpc.add_OrderServiceServicer_to_server(Orders(), server)
    server.add_insecure_port("127.0.0.1:50051")
    await serve(server)


if __name__ == "__main__":
    asyncio.run(main())
