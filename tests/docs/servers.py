"""Servers, calls and commands, as the pages show them."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from shop.orders.v1.orders_pb2 import CreateOrderRequest
from shop.orders.v1.orders_pb2_grpc import OrderServiceStub

from .pages import ADDRESS, EXAMPLES


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def running(address: str, folder: Path, *command: str, **environment: str) -> "Iterator[subprocess.Popen[str]]":
    """Runs a server in a process of its own, waits until it answers, and ends it by SIGTERM, with exit code 0."""
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=os.environ | environment, stdout=log, stderr=log, text=True
        )
    try:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=30)
        yield process
    finally:
        process.terminate()
        code = process.wait(20)
    assert code == 0


@contextmanager
def example(name: str, folder: Path, **environment: str) -> Iterator[str]:
    """Runs an example that is a server on a free port, and yields its address."""
    address = free_address()
    text = (EXAMPLES / name).read_text()
    assert ADDRESS in text
    (folder / "server.py").write_text(text.replace(ADDRESS, address))
    with running(address, folder, "server.py", **environment):
        yield address


@contextmanager
def shop(folder: Path) -> Iterator[str]:
    """Runs the shop as ``make run`` does, on a free port, and yields its address."""
    address = free_address()
    with running(address, folder, "-m", "shop", SHOP_LISTEN=address, SHOP_STORE=f"sqlite:///{folder / 'shop.db'}"):
        yield address


def shell(script: str, folder: Path) -> str:
    """Runs the lines of a page in a shell, with the tools of this project's venv."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def call(address: str, *metadata: tuple[str, str]) -> tuple[str, str]:
    """Makes one call, and returns the order's id and the ``idempotency-status``."""
    with grpc.insecure_channel(address) as channel:
        order, ended = OrderServiceStub(channel).CreateOrder.with_call(
            CreateOrderRequest(customer_id="cust_123"), metadata=metadata, timeout=20
        )
        return order.id, str(dict(ended.trailing_metadata()).get("idempotency-status"))
