"""A shop's server whose orders nobody can know, for an incident: ``python -m …ordering STORE KIND [halting]``.

It prints ``metrics at URL`` and ``listening on HOST:PORT``. In a server that is ``halting`` a handler stops for good in
the middle of its effect; it then prints ``charging``.
"""

import asyncio
import sys
import time
from typing import Any

import grpc
from prometheus_client import CollectorRegistry, start_http_server

from grpc_idempotency import Policy, aio, prometheus, store_from_url
from grpc_idempotency.metrics import Metrics
from shop.orders.v1.orders_pb2 import CreateOrderRequest, Order

from ..servers import interceptor_of
from ..waiting import ms
from .serving import say, serve_until_told

LEASE = Policy(lease=ms(1500), renew_every=ms(400))


def creating(kind: str, halting: bool) -> Any:
    """Returns the handler of CreateOrder."""

    def create(request: CreateOrderRequest, _context: Any) -> Order:
        if halting:
            say("charging")
            time.sleep(600)
        return Order(id="made-again", customer_id=request.customer_id)

    async def create_in_loop(request: CreateOrderRequest, _context: Any) -> Order:
        if halting:
            say("charging")
            await asyncio.sleep(600)
        return Order(id="made-again", customer_id=request.customer_id)

    return create if kind == "sync" else create_in_loop


async def main(url: str, kind: str, *flags: str) -> None:
    metrics, registry = Metrics(), CollectorRegistry()
    prometheus.register(metrics, registry)
    server, _ = start_http_server(0, "127.0.0.1", registry)
    say(f"metrics at http://127.0.0.1:{server.server_port}/metrics")
    store: Any = store_from_url(url) if kind == "sync" else aio.store_from_url(url)
    handler = grpc.unary_unary_rpc_method_handler(
        creating(kind, "halting" in flags), CreateOrderRequest.FromString, Order.SerializeToString
    )
    service = grpc.method_handlers_generic_handler("shop.orders.v1.OrderService", {"CreateOrder": handler})
    await serve_until_told(kind, interceptor_of(kind, store, policy=LEASE, observers=[metrics]), service)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
