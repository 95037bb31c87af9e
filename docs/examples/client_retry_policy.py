"""A client that lets gRPC itself retry, with a service config and a key in the metadata."""

import asyncio
import json
import sys
import uuid

import grpc.aio
from google.type.money_pb2 import Money

from shop.orders.v1.orders_pb2 import CreateOrderRequest, Order, OrderItem
from shop.orders.v1.orders_pb2_grpc import OrderServiceStub

SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "shop.orders.v1.OrderService"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


def connect(address: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(address, options=[("grpc.service_config", json.dumps(SERVICE_CONFIG))])


async def create_order(channel: grpc.aio.Channel) -> Order:
    request = CreateOrderRequest(
        customer_id="cust_123",
        items=[OrderItem(sku="SKU001", quantity=2), OrderItem(sku="SKU002", quantity=1)],
        total_amount=Money(currency_code="USD", units=55, nanos=990_000_000),
    )
    metadata = (("idempotency-key", str(uuid.uuid4())),)
    return await OrderServiceStub(channel).CreateOrder(request, metadata=metadata, timeout=30)


async def main() -> None:
    async with connect("127.0.0.1:50051") as channel:
        try:
            print((await create_order(channel)).id)
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name}: {error.details()}")


if __name__ == "__main__":
    asyncio.run(main())
