"""An opaque Order service in a process of its own: ``python -m …orders KIND STORE LEDGER METRICS LEASE [hang]``.

KIND is ``async`` or ``sync``, STORE the URL of its store, LEASE is in milliseconds. Each order is a line of the file
LEDGER. With ``hang`` a handler never ends once it has written its line. The metrics are served for Prometheus at a free
port, and its URL is written to the file METRICS. It prints ``listening on HOST:PORT``, and ``began ID`` when an order
is in the ledger.
"""

import asyncio
import sys
import threading
from pathlib import Path
from typing import Any

import grpc
from prometheus_client import CollectorRegistry, start_http_server

from grpc_idempotency import Policy, aio, prometheus, store_from_url
from grpc_idempotency.metrics import Metrics
from shop.orders.v1.orders_pb2 import CreateOrderRequest, Order

from ..servers import interceptor_of
from ..waiting import ms
from .serving import say, serve_until_told


class Orders:
    """Creates orders in a file, in no transaction with the operation."""

    def __init__(self, ledger: Path, *, hangs: bool) -> None:
        self._ledger = ledger
        self._hangs = hangs

    def create(self, request: CreateOrderRequest, _context: Any) -> Order:
        """On a thread."""
        order = self._write(request)
        if self._hangs:
            threading.Event().wait()
        return order

    async def create_async(self, request: CreateOrderRequest, _context: Any) -> Order:
        """In the event loop."""
        order = self._write(request)
        if self._hangs:
            await asyncio.Event().wait()
        return order

    def _write(self, request: CreateOrderRequest) -> Order:
        with self._ledger.open("a+") as ledger:
            ledger.seek(0)
            order = Order(id=f"order-{len(ledger.readlines()) + 1}", customer_id=request.customer_id)
            ledger.write(f"{order.id} {order.customer_id}\n")
        say("began", order.id)
        return order


def main(kind: str, url: str, ledger: str, told: str, lease: str, hang: str = "") -> None:
    """Serves until SIGTERM comes."""
    metrics, registry = Metrics(), CollectorRegistry()
    prometheus.register(metrics, registry)
    exporter, _ = start_http_server(0, "127.0.0.1", registry)
    Path(told).write_text(f"http://127.0.0.1:{exporter.server_port}/metrics")
    policy = Policy(lease=ms(int(lease)), renew_every=ms(int(lease) // 4))
    orders = Orders(Path(ledger), hangs=bool(hang))
    asyncio.run(serve(kind, url, policy, metrics, orders))
    exporter.server_close()


async def serve(kind: str, url: str, policy: Policy, metrics: Metrics, orders: Orders) -> None:
    store: Any = store_from_url(url) if kind == "sync" else aio.store_from_url(url)
    method = grpc.unary_unary_rpc_method_handler(
        orders.create if kind == "sync" else orders.create_async,
        CreateOrderRequest.FromString,
        Order.SerializeToString,
    )
    handler = grpc.method_handlers_generic_handler("shop.orders.v1.OrderService", {"CreateOrder": method})
    await serve_until_told(kind, interceptor_of(kind, store, policy=policy, observers=[metrics]), handler)


if __name__ == "__main__":
    main(*sys.argv[1:])
