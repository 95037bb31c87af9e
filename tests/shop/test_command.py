"""``python -m shop``, as a process."""

import asyncio
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from tests.shop.helpers import create_order

from shop.orders.v1.orders_pb2 import WatchOrderRequest
from shop.orders.v1.orders_pb2_grpc import OrderServiceStub

COMMAND = (sys.executable, "-m", "shop")
START_LIMIT = 30


def environment(**settings: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SHOP_")}
    return clean | {"SHOP_LISTEN": "127.0.0.1:0"} | settings


def complaint(folder: Path, **settings: str) -> tuple[int, str]:
    """The exit code of a shop that can't start, and the one line that it says."""
    ended = subprocess.run(
        COMMAND, cwd=folder, env=environment(**settings), capture_output=True, text=True, timeout=START_LIMIT
    )
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    return ended.returncode, ended.stderr


class Served:
    """A running shop."""

    def __init__(self, process: asyncio.subprocess.Process, address: str, channel: grpc.aio.Channel) -> None:
        self.process = process
        self.address = address
        self.channel = channel

    async def stopped(self, number: int) -> tuple[int, str]:
        """The exit code after a signal, and the log."""
        self.process.send_signal(number)
        _, log = await asyncio.wait_for(self.process.communicate(), timeout=START_LIMIT)
        assert self.process.returncode is not None
        return self.process.returncode, log.decode()


def health_of(shop: Served) -> Any:
    """The stub of health checks, whose type stubs tell nothing of it."""
    return HealthStub(shop.channel)


@asynccontextmanager
async def served(folder: Path, **settings: str) -> AsyncIterator[Served]:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, cwd=folder, env=environment(**settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), timeout=START_LIMIT)).decode()
        assert line.startswith("listening on 127.0.0.1:")
        assert line.endswith("\n")
        address = line.split()[-1]
        async with grpc.aio.insecure_channel(address) as channel:
            yield Served(process, address, channel)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
async def test_it_serves_until_it_is_told_to_stop(tmp_path: Path, number: int) -> None:
    """It says where it listens, serves, and ends with 0 on SIGTERM or SIGINT; what it stored is in the file."""
    async with served(tmp_path, SHOP_STORE="sqlite:///deep/down/shop.db") as shop:
        await OrderServiceStub(shop.channel).CreateOrder(create_order())
        code, log = await shop.stopped(number)
    assert code == 0
    first = log.splitlines()[0]
    assert first.endswith(
        f"on {shop.address}: services orders, users; operations and rows in sqlite:///deep/down/shop.db"
    )
    db = sqlite3.connect(tmp_path / "deep/down/shop.db")
    assert db.execute("SELECT count(*) FROM shop_orders").fetchone() == (1,)
    db.close()


async def test_it_tells_its_health_and_what_it_serves(tmp_path: Path) -> None:
    """Health checks say SERVING of the server and each service, and reflection lists them."""
    services = ["shop.orders.v1.OrderService", "shop.users.v1.UserService"]
    async with served(tmp_path) as shop:
        health = health_of(shop)
        for service in ("", *services):
            check = await health.Check(HealthCheckRequest(service=service))
            assert check.status == HealthCheckResponse.SERVING
        reflection: Any = ServerReflectionStub(shop.channel)  # type: ignore[arg-type]  # its stubs know no aio
        asked = reflection.ServerReflectionInfo(iter([ServerReflectionRequest(list_services="")]))
        listed = [one.name async for reply in asked for one in reply.list_services_response.service]
        assert set(listed) >= {*services, "grpc.health.v1.Health"}
        assert (await shop.stopped(signal.SIGTERM))[0] == 0


async def test_health_says_that_it_stops(tmp_path: Path) -> None:
    """At a stop a watch of the health learns it at once, and a watch of an order is told to come again."""
    async with served(tmp_path) as shop:
        order = await OrderServiceStub(shop.channel).CreateOrder(create_order())
        orders = OrderServiceStub(shop.channel).WatchOrder(WatchOrderRequest(id=order.id))
        health = health_of(shop).Watch(HealthCheckRequest())
        assert await orders.read() == order
        assert (await health.read()).status == HealthCheckResponse.SERVING
        shop.process.terminate()
        assert (await health.read()).status == HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as stopped:
            await orders.read()
        assert stopped.value.code() is grpc.StatusCode.UNAVAILABLE
        health.cancel()
        assert (await shop.stopped(signal.SIGCONT))[0] == 0


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """A second signal ends the server at once, without waiting for what runs."""
    async with served(tmp_path) as shop:
        health = health_of(shop).Watch(HealthCheckRequest())
        await health.read()
        shop.process.terminate()
        await health.read()
        assert (await shop.stopped(signal.SIGTERM))[0] == -signal.SIGTERM


async def test_its_log_has_a_line_per_call(tmp_path: Path) -> None:
    """A line says method, status, time, what became of the key, and peer: no bodies, no keys."""
    async with served(tmp_path) as shop:
        orders, key = OrderServiceStub(shop.channel), (("idempotency-key", "a-secret-key"),)
        assert await orders.CreateOrder(create_order(), metadata=key) == await orders.CreateOrder(
            create_order(), metadata=key
        )
        _, log = await shop.stopped(signal.SIGTERM)
    lines = [line for line in log.splitlines() if "CreateOrder" in line]
    for line, status in zip(lines, ("executed", "replayed"), strict=True):
        assert "/shop.orders.v1.OrderService/CreateOrder OK" in line
        assert f" ms {status} ipv4:127.0.0.1:" in line
    assert "a-secret-key" not in log
    assert "cust_123" not in log


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SHOP_STORE", "postgresql://ada:secret@host/shop?hots=x"),
        pytest.param("SHOP_LISTEN", "nowhere", marks=pytest.mark.slow),
        pytest.param("SHOP_TTL", "soon", marks=pytest.mark.slow),
    ],
)
def test_a_bad_setting_is_one_line(tmp_path: Path, name: str, value: str) -> None:
    """A bad value ends it with code 2 and one line that names the variable."""
    code, line = complaint(tmp_path, **{name: value})
    assert code == 2
    assert line.startswith(f"shop: {name}")
    assert "secret" not in line
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    """A port is not shared with another server, and the line names the address."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        code, line = complaint(tmp_path, SHOP_LISTEN=address)
    assert code == 1
    assert address in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "store", ["no.db", *(pytest.param(path, marks=pytest.mark.slow) for path in ("folder.db", "no.db/shop.db"))]
)
def test_a_store_that_can_not_be_used_is_one_line(tmp_path: Path, store: str) -> None:
    """A file that is no database, and a folder in a file's place, end it with one line that names the file."""
    (tmp_path / "no.db").write_text("no database, but long enough to look at as one" * 100)
    (tmp_path / "folder.db").mkdir()
    code, line = complaint(tmp_path, SHOP_STORE=f"sqlite:///{store}")
    assert code == 1
    assert store in line


def test_tables_of_a_newer_shop_are_left_alone(tmp_path: Path) -> None:
    """A shop that is older than its database says so and touches nothing."""
    db = sqlite3.connect(tmp_path / "shop.db")
    db.execute("CREATE TABLE shop_schema (only_row INTEGER PRIMARY KEY, version INTEGER NOT NULL)")
    db.execute("INSERT INTO shop_schema VALUES (1, 99)")
    db.commit()
    code, line = complaint(tmp_path, SHOP_STORE="sqlite:///shop.db")
    assert code == 1
    assert "version 99" in line
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE name LIKE 'shop%'")}
    assert tables == {"shop_schema"}
    db.close()
