"""Calls twice under one key, with generated stubs. The key in the metadata is all that a client adds."""

import sys
import uuid

import grpc
from google.type.money_pb2 import Money

from shop.orders.v1.orders_pb2 import CreateOrderRequest, OrderItem
from shop.orders.v1.orders_pb2_grpc import OrderServiceStub

request = CreateOrderRequest(
    customer_id="cust_123",
    items=[OrderItem(sku="SKU001", quantity=2), OrderItem(sku="SKU002", quantity=1)],
    total_amount=Money(currency_code="USD", units=55, nanos=990_000_000),
)
key = str(uuid.uuid4())  # one for each operation, kept for its retries

with grpc.insecure_channel("127.0.0.1:50051") as channel:
    orders = OrderServiceStub(channel)
    try:
        for _ in range(2):
            order, call = orders.CreateOrder.with_call(request, metadata=(("idempotency-key", key),), timeout=10)
            print(order.id, dict(call.trailing_metadata()))
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
