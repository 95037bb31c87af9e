"""The examples of the documentation run, and do what the pages say."""

import asyncio
import os
import re
import runpy
import shutil
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.type.money_pb2 import Money

from shop.demo.proxy import Proxy
from shop.orders.v1.orders_pb2 import CheckoutRequest, CreateOrderRequest, ListOrdersRequest, Order, OrderItem
from shop.orders.v1.orders_pb2_grpc import OrderServiceStub
from shop.users.v1.users_pb2 import AddCreditRequest, CreateUserRequest, GetUserRequest, User
from shop.users.v1.users_pb2_grpc import UserServiceStub

from .pages import ADDRESS, EXAMPLES
from .servers import call, example, free_address, running, shop


@pytest.mark.slow
def test_the_example_of_a_store_passes_the_contract(tmp_path: Path) -> None:
    """The store of the page on writing one keeps every promise of a store (6.1)."""
    for name in ("own_store.py", "own_operator_store.py", "own_store_test.py"):
        shutil.copy(EXAMPLES / name, tmp_path)
    options = ["asyncio_mode=auto", "asyncio_default_fixture_loop_scope=function", "filterwarnings=error"]
    # A folder of its own for temporary files: other sessions of pytest clear away those in the usual one.
    temporary = f"--basetemp={tmp_path / 'temporary'}"
    settings = [f"--override-ini={one}" for one in options]
    command = [sys.executable, "-m", "pytest", "-q", temporary, "own_store_test.py", *settings]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quickstart.py", "quickstart_sync.py", "store_url.py", "transactional.py"])
def test_example_servers(name: str, tmp_path: Path) -> None:
    """A key's second call gets the first reply; a call without a key, and another key's, get their own."""
    with example(name, tmp_path) as address:
        first, how = call(address, ("idempotency-key", "k1"))
        assert how == "executed"
        assert call(address, ("idempotency-key", "k1")) == (first, "replayed")
        assert call(address, ("idempotency-key", "k2"))[0] != first
        assert call(address)[1] == "None"
    with example(name, tmp_path) as address:
        assert call(address, ("idempotency-key", "k1")) == (first, "replayed")


@pytest.mark.slow
def test_example_of_an_observer(tmp_path: Path) -> None:
    """It prints how each call was answered."""
    key, method = ("idempotency-key", "k1"), "/shop.orders.v1.OrderService/CreateOrder"
    with example("observing.py", tmp_path) as address:
        assert call(address, key)[1] == "executed"
        assert call(address, key)[1] == "replayed"
        with pytest.raises(grpc.RpcError, match="can't be used"):
            call(address, ("idempotency-key", ""))
        lines = [f"{method} executed OK", f"{method} replayed OK", f"{method} KEY_INVALID INVALID_ARGUMENT"]
        while (tmp_path / "server.log").read_text().splitlines() != lines:
            time.sleep(0.01)


@pytest.mark.slow
def test_example_of_metrics_for_prometheus(tmp_path: Path) -> None:
    """A scrape has a call that was executed and one that was replayed."""
    port = free_address().rpartition(":")[2]
    with example("metrics_prometheus.py", tmp_path, METRICS_PORT=port) as address:
        for _ in range(2):
            call(address, ("idempotency-key", "k1"))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as scraped:
            lines = scraped.read().decode().splitlines()
    for status in ("executed", "replayed"):
        (line,) = [one for one in lines if one.startswith("grpc_idempotency_calls_total") and f'"{status}"' in one]
        assert line.endswith(" 1.0")


@pytest.mark.slow
def test_example_of_metrics_and_traces_by_opentelemetry(tmp_path: Path) -> None:
    """At its end the server has exported its metrics, and the spans of both calls; the replay links to the other."""
    with example("metrics_otel.py", tmp_path) as address:
        for _ in range(2):
            call(address, ("idempotency-key", "k1"))
    printed = (tmp_path / "server.log").read_text()
    assert '"name": "grpc_idempotency.calls"' in printed
    executed, replayed = re.findall(
        r'"grpc_idempotency.status": "(?:executed|replayed)".*?"links": \[(.*?)\]', printed, re.S
    )
    assert "trace_id" in replayed
    assert "trace_id" not in executed


@pytest.mark.slow
def test_example_of_streams(tmp_path: Path) -> None:
    """A list of orders is imported once for each key; where their number is not announced, not at all."""
    import_orders: Any = runpy.run_path(str(EXAMPLES / "streams.py"))["import_orders"]
    requests = [CreateOrderRequest(customer_id=f"cust_{number}") for number in range(3)]
    with example("streams.py", tmp_path) as address, grpc.insecure_channel(address) as channel:
        assert [import_orders(address, requests, key) for key in ("k1", "k1", "k2")] == [3, 3, 3]
        with pytest.raises(grpc.RpcError, match="their number has to be announced"):
            OrderServiceStub(channel).ImportOrders(iter(requests), metadata=(("idempotency-key", "k3"),), timeout=20)
    with closing(sqlite3.connect(tmp_path / "orders.db")) as db:
        assert db.execute("SELECT count(*) FROM orders").fetchone() == (6,)


@pytest.mark.slow
def test_example_of_interceptors_on_both_sides(tmp_path: Path) -> None:
    """Outside a replay is authorised, and a key belongs to its user; inside only executions are seen (4.10)."""
    key = ("idempotency-key", "k")
    ada, bob = ("x-token", "secret-of-ada"), ("x-token", "secret-of-bob")
    with example("interceptors.py", tmp_path) as address:
        first, again, other = call(address, ada, key), call(address, ada, key), call(address, bob, key)
        with pytest.raises(grpc.RpcError, match=r"Send a token\."):
            call(address, key)
    assert (first[1], again, other[1]) == ("executed", (first[0], "replayed"), "executed")
    log = (tmp_path / "server.log").read_text().splitlines()
    assert [line.split()[-1] for line in log] == ["ada", "bob"]


@pytest.mark.slow
def test_example_of_all_that_an_embedder_decides(tmp_path: Path) -> None:
    """A key is required, under either header, and belongs to its user; who is nobody is refused outside."""
    ada, bob = ("x-token", "secret-of-ada"), ("x-token", "secret-of-bob")
    with example("embed.py", tmp_path, IDEMPOTENCY_SECRET="a secret that nobody guesses") as address:
        first, _ = call(address, ada, ("idempotency-key", "k1"))
        assert call(address, ada, ("x-idempotency-key", "k1")) == (first, "replayed")
        assert call(address, bob, ("idempotency-key", "k1"))[1] == "executed"
        with pytest.raises(grpc.RpcError, match="asks for an idempotency key"):
            call(address, ada)
        with pytest.raises(grpc.RpcError, match="Send a token"):
            call(address, ("idempotency-key", "k1"))


def test_example_of_an_embedder_without_a_secret(tmp_path: Path) -> None:
    """It ends with one line that says how to make one."""
    environment = {name: value for name, value in os.environ.items() if name != "IDEMPOTENCY_SECRET"}
    command = [sys.executable, str(EXAMPLES / "embed.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "IDEMPOTENCY_SECRET is not set. Make one, and keep it: openssl rand -hex 16\n"


@pytest.mark.slow
def test_example_of_a_handler_in_doubt(tmp_path: Path) -> None:
    """A charge that nobody knows of is held, and its customer's name is for operators alone."""
    slow = CreateOrderRequest(customer_id="cust_slow")
    with example("in_doubt.py", tmp_path) as address, grpc.insecure_channel(address) as channel:
        assert call(address, ("idempotency-key", "k1"))[1] == "executed"
        for _ in range(2):
            with pytest.raises(grpc.RpcError, match="Nobody can know") as told:
                OrderServiceStub(channel).CreateOrder(slow, metadata=(("idempotency-key", "k2"),), timeout=20)
            assert "cust_slow" not in str(told.value.details())
    with closing(sqlite3.connect(tmp_path / "idempotency.db")) as db:
        reasons = [
            reason for (reason,) in db.execute("SELECT reason FROM grpc_idempotency_operations WHERE reason != ''")
        ]
    assert reasons == ["its handler could not find out: look up the last charge of cust_slow"]


@pytest.mark.slow
def test_example_client(tmp_path: Path) -> None:
    """Two calls by the generated stubs: one id; executed, then replayed."""
    with shop(tmp_path) as address:
        code = (EXAMPLES / "client.py").read_text().replace(ADDRESS, address)
        printed = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
        ).stdout.splitlines()
    (one, first), (two, second) = (line.split(" ", 1) for line in printed)
    assert one == two
    assert "'executed'" in first
    assert "'replayed'" in second


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("client.py", 0, "UNAVAILABLE: "),
        ("client_retry_policy.py", 0, "UNAVAILABLE: "),
        ("checkout.py", 2, "UNAVAILABLE: "),
        ("checkout.py", 0, "usage: checkout.py USERS_ADDRESS ORDERS_ADDRESS"),
    ],
)
def test_example_clients_without_a_server(name: str, arguments: int, told: str) -> None:
    """If no server answers, or an argument is missing, a client prints one line, and no traceback."""
    code = (EXAMPLES / name).read_text().replace(ADDRESS, free_address())
    command = [sys.executable, "-c", code, *(free_address() for _ in range(arguments))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith(told)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_example_of_a_checkout_over_two_processes(tmp_path: Path) -> None:
    """The shop in two processes, as README starts them: an order is paid for once."""
    users, orders = free_address(), free_address()
    at_users = {"SHOP_SERVICES": "users", "SHOP_LISTEN": users, "SHOP_STORE": "sqlite:///users.db"}
    at_orders = {"SHOP_SERVICES": "orders", "SHOP_LISTEN": orders, "SHOP_USERS": users}
    with (
        running(users, tmp_path, "-m", "shop", **at_users),
        running(orders, tmp_path, "-m", "shop", **at_orders, SHOP_STORE="sqlite:///orders.db"),
    ):
        command = [sys.executable, str(EXAMPLES / "checkout.py"), users, orders]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == second
    assert first.endswith("STATE_CONFIRMED balance 40")


@pytest.mark.slow
async def test_example_client_with_grpcs_own_retries(tmp_path: Path) -> None:
    """The first reply is lost in truth; gRPC itself retries, and the call ends with the one order there is."""
    client: Any = runpy.run_path(str(EXAMPLES / "client_retry_policy.py"))
    with shop(tmp_path) as address:
        async with Proxy(address) as proxy, client["connect"](proxy.address) as channel:
            await channel.channel_ready()
            proxy.withhold()
            calling = asyncio.create_task(client["create_order"](channel))
            while b"order-" not in proxy.withheld:
                await proxy.more_withheld()
            proxy.cut()
            order = await calling
        async with grpc.aio.insecure_channel(address) as channel:
            listed = await OrderServiceStub(channel).ListOrders(ListOrdersRequest())
    assert order.id.encode() in proxy.withheld
    assert list(listed.orders) == [order]


@pytest.mark.slow
async def test_example_client_whose_calls_carry_keys(tmp_path: Path) -> None:
    """The first reply is lost in truth; the attempts after it have its key, and there is one order."""
    request = CreateOrderRequest(
        customer_id="cust_123",
        items=[OrderItem(sku="SKU001", quantity=2)],
        total_amount=Money(currency_code="USD", units=5),
    )
    client: Any = runpy.run_path(str(EXAMPLES / "client_keys.py"))
    with shop(tmp_path) as address:
        async with Proxy(address) as proxy, client["connect"](proxy.address) as channel:
            await channel.channel_ready()
            proxy.withhold()
            calling = asyncio.create_task(client["create_order"](channel, request))
            while b"order-" not in proxy.withheld:
                await proxy.more_withheld()
            proxy.cut()
            order = await calling
            with_gift = await client["order_with_gift"](channel, request)
        with client["connect_without_asyncio"](address) as channel:
            listed = OrderServiceStub(channel).ListOrders(ListOrdersRequest())
    assert list(listed.orders) == [order, with_gift]
    assert [item.sku for item in with_gift.items] == ["SKU001", "GIFT"]


@pytest.mark.slow
def test_example_of_a_workflow(tmp_path: Path) -> None:
    """It pays for an order at the shop's user service, undoes all where that refuses, and waits while it is away."""
    address = free_address()
    users = ("-m", "shop"), {"SHOP_LISTEN": address, "SHOP_STORE": "sqlite:///users.db", "SHOP_SERVICES": "users"}
    with example("workflow.py", tmp_path, USERS=address) as orders_at, grpc.insecure_channel(orders_at) as channel:
        orders = OrderServiceStub(channel)
        with running(address, tmp_path, *users[0], **users[1]), grpc.insecure_channel(address) as channel_to_users:
            ada = UserServiceStub(channel_to_users).CreateUser(
                CreateUserRequest(user=User(display_name="A", email="a@b"))
            )
            credit = AddCreditRequest(user_id=ada.id, amount=Money(currency_code="USD", units=10))
            UserServiceStub(channel_to_users).AddCredit(credit)
            first, second, third = (
                orders.CreateOrder(CreateOrderRequest(customer_id=ada.id, total_amount=Money(units=units)))
                for units in (6, 6, 4)
            )
            paid = orders.Checkout(CheckoutRequest(order_id=first.id, request_id="1"), timeout=20)
            assert paid.state == Order.STATE_CONFIRMED
            for _ in range(2):  # and the same to a retry
                with pytest.raises(grpc.RpcError, match="less than") as refused:
                    orders.Checkout(CheckoutRequest(order_id=second.id, request_id="2"), timeout=20)
                assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        with pytest.raises(grpc.RpcError):
            orders.Checkout(CheckoutRequest(order_id=third.id, request_id="3"), timeout=1)
        with running(address, tmp_path, *users[0], **users[1]), grpc.insecure_channel(address) as channel_to_users:
            paid = orders.Checkout(CheckoutRequest(order_id=third.id, request_id="3"), timeout=30)
            assert paid.state == Order.STATE_CONFIRMED
            spent = UserServiceStub(channel_to_users).GetUser(GetUserRequest(id=ada.id))
            assert spent.balance == Money(currency_code="USD", units=0)


@pytest.mark.slow
def test_example_in_steps(tmp_path: Path) -> None:
    """Charged once for each key; an order that fails is refunded, and its failure replayed; a key is required."""
    wanting = CreateOrderRequest(customer_id="cust_456", items=[OrderItem(sku="SKU001", quantity=2)])
    with example("steps.py", tmp_path) as address, grpc.insecure_channel(address) as channel:
        orders = OrderServiceStub(channel)
        made = [orders.CreateOrder(wanting, metadata=(("idempotency-key", "k1"),), timeout=20).id for _ in range(2)]
        assert made[0] == made[1]
        for _ in range(2):
            with pytest.raises(grpc.RpcError, match="nothing to deliver"):
                call(address, ("idempotency-key", "k2"))
        with pytest.raises(grpc.RpcError, match="asks for an idempotency key"):
            call(address)
    lines = (tmp_path / "server.log").read_text().splitlines()
    assert [line for line in lines if line.split()[0] in ("charged", "refunded")] == [
        "charged cust_456",
        "charged cust_123",
        "refunded charge-cust_123",
    ]
    with closing(sqlite3.connect(tmp_path / "orders.db")) as db:
        assert list(db.execute("SELECT id FROM orders")) == [(made[0],)]
