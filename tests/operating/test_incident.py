"""The drill: a server is killed in an opaque call, and an operator does what the pages say (4.5, 6.4)."""

import asyncio
import time
from pathlib import Path

import grpc.aio
import pytest

from shop.orders.v1.orders_pb2 import CreateOrderRequest, Order
from shop.orders.v1.orders_pb2_grpc import OrderServiceStub

from ..docs.pages import ROOT, blocks
from ..docs.servers import shell
from ..harness.processes import Process
from ..harness.replies import new_key
from ..harness.waiting import until
from ..metrics.scrapes import scraped
from ..metrics.test_ops import alerts, selected

PAGE = ROOT / "docs/how-to/resolving.md"
ALERT = "IdempotencyOperationsHeld"
REQUEST = CreateOrderRequest(customer_id="cust_1")


def firing(url: str) -> bool:
    """Whether the alert's query finds something in a scrape."""
    [query] = [rule["expr"] for rule in alerts() if rule["alert"] == ALERT]
    assert query.endswith(" > 0")
    [(name, labels)] = selected(query)[0]
    return any(one.value > 0 for one in scraped(url) if one.name == name and labels <= one.labels.items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_an_incident(kind: str, tmp_path: Path) -> None:
    """The alert fires; ls, show and resolve, as the page has them, lead to the outcome that the client's retry gets."""
    placing, explaining, listing, showing, _, resolving = blocks(PAGE, "sh")
    key = (("idempotency-key", new_key()),)
    arguments = (f"sqlite:///{tmp_path / 'orders.db'}", kind)
    first, second = Process(*arguments, "halting", program="ordering"), Process(*arguments, program="ordering")

    async def operator(text: str) -> str:
        return await asyncio.to_thread(shell, placing + text, tmp_path)

    try:
        url = await second.line("metrics at ")
        await second.ready()
        await first.ready()
        async with grpc.aio.insecure_channel(first.target) as channel:
            call = OrderServiceStub(channel).CreateOrder(REQUEST, metadata=key)
            await first.line("charging")
            assert not firing(url)
            first.kill()
            killed = time.monotonic()
            with pytest.raises(grpc.aio.AioRpcError):
                await call

        await until(lambda: asyncio.to_thread(firing, url))
        print(f"the alert fires {time.monotonic() - killed:.1f} s after the kill")
        async with grpc.aio.insecure_channel(second.target) as channel:
            retry = OrderServiceStub(channel).CreateOrder
            with pytest.raises(grpc.aio.AioRpcError, match="Nobody can know"):
                await retry(REQUEST, metadata=key)
            assert "resolves it" in await operator(explaining)
            [_, line] = (await operator(listing)).splitlines()
            name = line.split()[0]
            shown = await operator(showing.replace("5f0c6ba4", name[:8]))
            assert name in shown
            assert "its server stopped" in shown
            await operator(f"{resolving.rstrip().replace('5f0c6ba4', name[:8])} --yes\n")
            assert await retry(REQUEST, metadata=key) == Order(id="order-7")
        print(f"the client has the outcome {time.monotonic() - killed:.1f} s after the kill")
        await until(lambda: asyncio.to_thread(lambda: not firing(url)))
    finally:
        first.discard()
        second.discard()
