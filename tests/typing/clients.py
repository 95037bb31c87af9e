"""Clients of both kinds, as type checkers see them."""

import asyncio
from datetime import timedelta

import grpc
import grpc.aio
from typing_extensions import assert_type

from grpc_idempotency import ClientInterceptor, ClientPolicy, Reason, Refusal, refusal_of, status_of
from grpc_idempotency import aio as idempotency
from grpc_idempotency.retrying import AsyncRetrying, Retrying
from shop.orders.v1.orders_pb2 import CreateOrderRequest, Order
from shop.orders.v1.orders_pb2_grpc import OrderServiceStub

POLICIES = {"/shop.orders.v1.OrderService/*": ClientPolicy(keyed=True, headers=("x-key",), count_up_to=10)}
REQUEST = CreateOrderRequest(customer_id="ann")


def blocking() -> None:
    """A channel whose calls get keys, and what they are answered with."""
    channel = grpc.intercept_channel(grpc.insecure_channel("127.0.0.1:50051"), ClientInterceptor(methods=POLICIES))
    try:
        order, call = OrderServiceStub(channel).CreateOrder.with_call(REQUEST)
        assert_type(order, Order)
        assert_type(status_of(call), str | None)
    except grpc.RpcError as error:
        assert_type(status_of(error), str | None)
        refusal = assert_type(refusal_of(error), Refusal | None)
        if refusal is not None:
            assert_type(refusal.reason, Reason)
            assert_type(refusal.retry_after, timedelta | None)


async def awaited() -> None:
    """The same on ``grpc.aio``."""
    interceptors = idempotency.client_interceptors(policy=ClientPolicy(), methods=POLICIES)
    async with grpc.aio.insecure_channel("127.0.0.1:50051", interceptors=interceptors) as channel:
        call = OrderServiceStub(channel).CreateOrder(REQUEST)
        assert_type(await call, Order)
        assert_type(await idempotency.status_of(call), str | None)


@Retrying(deadline=timedelta(seconds=5), attempts=3)
def place(customer: str, *, amount: int = 1) -> list[str]:
    return [customer] * amount


@AsyncRetrying(attempt_timeout=None)
async def place_later(customer: str) -> list[str]:
    return [customer]


async def retried() -> None:
    """What is retried keeps its parameters and what it returns."""
    assert_type(place("ann", amount=2), list[str])
    assert_type(await place_later("ann"), list[str])
    assert_type(await asyncio.create_task(place_later("ann")), list[str])
    assert_type(Retrying().call(len, "ann"), int)
    assert_type(await AsyncRetrying().call(place_later, "ann"), list[str])
