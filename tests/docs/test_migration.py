"""The stages of the migration from a table serve side by side, and the server for Kubernetes fits its manifest."""

import runpy
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shop.orders.v1.orders_pb2 import CreateOrderRequest
from shop.orders.v1.orders_pb2_grpc import OrderServiceStub

from .pages import EXAMPLES, ROOT, blocks
from .servers import call, example, free_address, running


class Stages:
    """A server of each stage, all on one database."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._file = folder / "orders.db"
        self.addresses = [
            stack.enter_context(example("from_a_table.py", folder, STAGE=str(number))) for number in range(4)
        ]

    def orders(self) -> set[str]:
        with closing(sqlite3.connect(self._file)) as db:
            return {order for (order,) in db.execute("SELECT id FROM orders")}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    with ExitStack() as stack:
        yield Stages(tmp_path_factory.mktemp("stages"), stack)


SIDE_BY_SIDE = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2), (0, 2), (2, 3), (3, 2)]


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), SIDE_BY_SIDE)
def test_stages_that_may_serve_at_once(stages: Stages, first: int, second: int) -> None:
    """A retry that comes to a server of another stage gets the first reply, and there is one order."""
    before, key = stages.orders(), ("idempotency-key", f"{first}, then {second}")
    order, _ = call(stages.addresses[first], key)
    assert call(stages.addresses[second], key)[0] == order
    assert stages.orders() - before == {order}


@pytest.mark.slow
@pytest.mark.parametrize("later", range(3))
def test_a_key_of_the_table_that_is_reused(stages: Stages, later: int) -> None:
    """As long as the table is read, another request under one of its keys is refused."""
    key = ("idempotency-key", f"reused at {later}")
    call(stages.addresses[0], key)
    with grpc.insecure_channel(stages.addresses[later]) as channel, pytest.raises(grpc.RpcError) as caught:
        OrderServiceStub(channel).CreateOrder(CreateOrderRequest(customer_id="cust_456"), metadata=(key,), timeout=20)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_the_manifest_is_that_of_the_page() -> None:
    """The page shows the whole file."""
    assert blocks(ROOT / "docs/how-to/kubernetes.md", "yaml") == [(EXAMPLES / "kubernetes.yaml").read_text()]


def test_the_time_to_stop_is_enough() -> None:
    """Kubernetes waits for longer than preStop, the grace of calls and the drain take together (4.4)."""
    manifest = (EXAMPLES / "kubernetes.yaml").read_text()
    server: Any = runpy.run_path(str(EXAMPLES / "kubernetes.py"))
    before = int(manifest.split("sleep: {seconds: ")[1].split("}")[0])
    whole = int(manifest.split("terminationGracePeriodSeconds: ")[1].split("\n")[0])
    assert f"service: {server['SERVICE']}}}" in manifest
    assert timedelta(seconds=before + 3) + server["GRACE"] + server["DRAIN_LIMIT"] <= timedelta(seconds=whole)


@pytest.mark.slow
def test_the_server_for_kubernetes(tmp_path: Path) -> None:
    """It answers the probes, replays, and ends with exit code 0 on SIGTERM."""
    address = free_address()
    settings = {"LISTEN": address, "STORE": "sqlite:///orders.db"}
    with running(address, tmp_path, str(EXAMPLES / "kubernetes.py"), **settings) as server:
        order, _ = call(address, ("idempotency-key", "k"))
        assert call(address, ("idempotency-key", "k")) == (order, "replayed")
        with grpc.insecure_channel(address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            for service in ("", "shop.orders.v1.OrderService"):
                asked = health_pb2.HealthCheckRequest(service=service)
                told = health.Check(asked, timeout=20)
                assert told.status == health_pb2.HealthCheckResponse.SERVING
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
