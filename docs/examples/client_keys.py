"""A client whose calls get keys automatically, and are retried for as long as another attempt can help."""

import asyncio
from datetime import timedelta

import grpc
import grpc.aio
from google.type.money_pb2 import Money

from grpc_idempotency import ClientInterceptor, refusal_of
from grpc_idempotency.aio import client_interceptors
from grpc_idempotency.retrying import AsyncRetrying
from shop.orders.v1.orders_pb2 import AddItemRequest, CreateOrderRequest, Order, OrderItem
from shop.orders.v1.orders_pb2_grpc import OrderServiceStub


def connect(address: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(address, interceptors=client_interceptors())


def connect_without_asyncio(address: str) -> grpc.Channel:
    return grpc.intercept_channel(grpc.insecure_channel(address), ClientInterceptor())


retrying = AsyncRetrying(deadline=timedelta(seconds=60), attempt_timeout=timedelta(seconds=10))


async def create_order(channel: grpc.aio.Channel, request: CreateOrderRequest) -> Order:
    return await retrying.call(OrderServiceStub(channel).CreateOrder, request)


@retrying
async def order_with_gift(channel: grpc.aio.Channel, request: CreateOrderRequest) -> Order:
    orders = OrderServiceStub(channel)
    order = await orders.CreateOrder(request)
    return await orders.AddItem(AddItemRequest(order_id=order.id, item=OrderItem(sku="GIFT", quantity=1)))


async def main() -> None:
    request = CreateOrderRequest(
        customer_id="cust_123",
        items=[OrderItem(sku="SKU001", quantity=2), OrderItem(sku="SKU002", quantity=1)],
        total_amount=Money(currency_code="USD", units=55, nanos=990_000_000),
    )
    async with connect("127.0.0.1:50051") as channel:
        try:
            print((await create_order(channel, request)).id)
            print((await order_with_gift(channel, request)).id)
        except grpc.RpcError as error:
            refusal = refusal_of(error)
            print(refusal.reason.name if refusal else error.code(), error.details())


if __name__ == "__main__":
    asyncio.run(main())
