"""README and docs are true: their code runs, their commands work, and their tables match the library."""

import asyncio
import importlib
import os
import re
import runpy
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields
from datetime import timedelta
from functools import reduce
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.type.money_pb2 import Money

from grpc_idempotency import Disposition, Effects, Policy, Reason, State
from grpc_idempotency.aio import SQLiteStore
from grpc_idempotency.records import Claim, Fingerprint
from shop.config import Config, from_environment
from shop.demo.proxy import Proxy
from shop.orders.v1.orders_pb2 import CheckoutRequest, CreateOrderRequest, ListOrdersRequest, Order, OrderItem
from shop.orders.v1.orders_pb2_grpc import OrderServiceStub
from shop.users.v1.users_pb2 import AddCreditRequest, CreateUserRequest, GetUserRequest, User
from shop.users.v1.users_pb2_grpc import UserServiceStub

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
ADDRESS = "127.0.0.1:50051"
BUF = Path(sys.executable).with_name("buf")

page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, language: str) -> list[str]:
    """Returns the fenced blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def running(address: str, folder: Path, *command: str, **environment: str) -> "Iterator[subprocess.Popen[str]]":
    """Runs a server in a process of its own, waits until it answers, and ends it by SIGTERM."""
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
        process.wait(20)


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


# What is written


@page
def test_code_on_a_page_is_code_that_runs(page: Path) -> None:
    """Every Python block of a page is in a file that the tests below run, letter for letter."""
    files = [file.read_text() for file in EXAMPLES.rglob("*.py")]
    for block in blocks(page, "python"):
        assert any(block in text for text in files), block


@page
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page leads to a file."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_example_of_a_store_passes_the_contract(tmp_path: Path) -> None:
    """The store of the page on writing one keeps every promise of a store (6.1)."""
    for name in ("own_store.py", "own_store_test.py"):
        shutil.copy(EXAMPLES / name, tmp_path)
    options = ["asyncio_mode=auto", "asyncio_default_fixture_loop_scope=function", "filterwarnings=error"]
    # A folder of its own for temporary files: other sessions of pytest clear away those in the usual one.
    temporary = f"--basetemp={tmp_path / 'temporary'}"
    settings = [f"--override-ini={one}" for one in options]
    command = [sys.executable, "-m", "pytest", "-q", temporary, "own_store_test.py", *settings]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("name", ["README.md", "docs/reference/refusals.md"])
def test_the_tables_of_refusals_are_the_librarys(name: str) -> None:
    """The tables have all reasons and their statuses, in their order (2.3)."""
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([A-Z_]+) \|", (ROOT / name).read_text(), re.MULTILINE)
    assert rows == [(reason.name, reason.status.name) for reason in Reason]


def test_the_table_of_refusals_knows_their_variables() -> None:
    """The table names the variables of each message."""
    rows = re.findall(
        r"^\| `([A-Z_]+)` \|[^|]*\|[^|]*\|([^|]*)\|", (ROOT / "docs/reference/refusals.md").read_text(), re.MULTILINE
    )
    told = {name: set(re.findall(r"`(\w+)`", variables)) for name, variables in rows}
    assert told == {
        reason.name: set(re.findall(r"{(\w+)}", reason.value.message)) | _field(reason) for reason in Reason
    }


def _field(reason: Reason) -> set[str]:
    return {"field"} if reason.value.bad_request else set()


def test_the_table_of_the_policy_is_the_librarys() -> None:
    """The table has every field of a policy, in its order."""
    first = (ROOT / "docs/reference/policy.md").read_text().split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", first, re.MULTILINE) == [field.name for field in fields(Policy)]


def test_the_table_of_the_environment_is_the_shops() -> None:
    """The variables of README exist, and their defaults are the shop's."""
    told = dict(re.findall(r"^\| `(SHOP_\w+)` \|.*\| `(\S+)` \|$", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert set(told) == {"SHOP_LISTEN", "SHOP_STORE", "SHOP_TTL", "SHOP_LEASE", "SHOP_SERVICES"}
    assert from_environment(told) == Config()


GLOSSARY = (ROOT / "docs/glossary.md").read_text()
ENTRIES = re.findall(r"^\| \*\*(.+?)\*\* \| .+ \| (.+?) \|$", GLOSSARY, re.MULTILINE)
"""The words of the glossary, each with where it is at home."""
PUBLIC = ("grpc_idempotency", "grpc_idempotency.records", "grpc_idempotency.store", "grpc_idempotency.transactions")
STEMS = {"cardinality": "cardinalities", "pass-through": "passed through", "take-over": "taken over", "try": "tries"}
"""How a clause writes a word, where the clause does not have the word itself."""


def _clauses() -> dict[str, str]:
    """Returns the text of each clause of the design, and of each section, by its number."""
    text = (ROOT / "docs/design.md").read_text()
    sections = re.findall(r"^## (\d+)\.(.*?)(?=^## |\Z)", text, re.M | re.S)
    parts = re.findall(r"^(\d+\.\d+) (.*?)(?=^\d+\.\d+ |^## |\Z)", text, re.M | re.S)
    return dict([*sections, *parts])


@pytest.mark.parametrize(("word", "places"), ENTRIES, ids=[word for word, _ in ENTRIES])
def test_a_word_of_the_glossary_is_at_home_where_it_says(word: str, places: str) -> None:
    """Each clause that an entry names uses the word, and each public name that it names is there."""
    clauses = _clauses() | {"how a call runs": (ROOT / "docs/explanation/how-a-call-runs.md").read_text()}
    for place in places.split(", "):
        if place.startswith("`"):
            assert any(_found(module, place.strip("`")) for module in PUBLIC), place
        else:
            stem = STEMS.get(word, word.rstrip("e"))
            assert re.search(stem, re.sub(r"\s+", " ", clauses[place]), re.IGNORECASE), (word, place)


def _found(module: str, path: str) -> bool:
    try:
        reduce(getattr, path.split("."), importlib.import_module(module))
    except AttributeError:
        return False
    return True


def test_the_glossary_is_in_order_and_whole() -> None:
    """Its words are sorted, none comes twice, and the states, dispositions and answers are in it."""
    words = [word for word, _ in ENTRIES]
    assert words == sorted(set(words), key=str.lower)
    assert len(words) == GLOSSARY.count("\n| **")
    text = GLOSSARY.lower()
    named = [one.value for enum in (State, Disposition, Effects) for one in enum]
    assert [one for one in [*named, "attached", "replay", "refusal", "unprotected"] if one not in text] == []


@page
def test_a_page_has_no_word_that_the_glossary_avoids(page: Path) -> None:
    """The words that the glossary replaces are on no other page."""
    avoided = r"(?<!in )\bflights?\b|\bfound(?:s|ed)\b|\bboard(?:s|ed)\b|\blandings?\b|\btapes?\b"
    if page.name != "glossary.md":
        assert re.findall(avoided, page.read_text(), re.IGNORECASE) == []


def test_make_has_the_commands_of_readme() -> None:
    """The commands that README tells to type are targets of the Makefile."""
    console = blocks(ROOT / "README.md", "console")
    commands = [line for block in console for line in block.splitlines() if line.startswith("make ")]
    assert commands == ["make demo", "make test", "make run", "make setup"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{command.removeprefix('make ')}:" in makefile for command in commands)


# What runs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quickstart.py", "quickstart_sync.py", "transactional.py"])
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


def test_example_client_without_a_server() -> None:
    """If no server answers, the client prints one line, and no traceback."""
    code = (EXAMPLES / "client.py").read_text().replace(ADDRESS, free_address())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("UNAVAILABLE: ")
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


@pytest.mark.slow
async def test_example_of_an_operators_program(tmp_path: Path) -> None:
    """What made an order is completed with it, what made none never happened."""
    resolving: Any = runpy.run_path(str(EXAMPLES / "resolving.py"))
    store = SQLiteStore(tmp_path / "held.db")
    names = [await _held(store), await _held(store)]
    held = resolving["resolve_all"](f"sqlite:///{tmp_path / 'held.db'}", {names[1].hex(): Order(id="o1")})
    assert {record.name for record in held} == set(names)
    assert await store.get(names[0]) is None
    record = await store.get(names[1])
    assert record is not None
    assert record.outcome is not None
    assert record.outcome.message == Order(id="o1").SerializeToString()
    await store.close()


@pytest.mark.slow
async def test_commands_of_an_operator(tmp_path: Path) -> None:
    """The commands of the page, in their order, do what it says."""
    store = SQLiteStore(tmp_path / "orders.db")
    names = [await _held(store), await _held(store)]
    (tmp_path / "order.bin").write_bytes(Order(id="o1").SerializeToString())
    listing, showing, never, done = blocks(ROOT / "docs/how-to/resolving.md", "sh")
    listed = shell(listing, tmp_path)
    assert all(f"{name.hex()} held" in listed for name in names)
    shown = shell(showing.replace("5f0c6ba4", names[0].hex()), tmp_path)
    assert f"operation: {names[0].hex()}\nstate: held" in shown
    shell(never.replace("5f0c6ba4", names[0].hex()), tmp_path)
    shell(done.replace("5f0c6ba4", names[1].hex()), tmp_path)
    assert shell(listing, tmp_path) == ""
    assert [record.name for record in await store.list(state=State.COMPLETED)] == [names[1]]
    await store.close()


async def _held(store: SQLiteStore) -> bytes:
    name, fence = os.urandom(16), os.urandom(16)
    claim = Claim(
        name=name,
        method="/shop.orders.v1.OrderService/CreateOrder",
        fence=fence,
        fingerprint=Fingerprint(raw=b"r" * 32, canonical=b"c" * 32),
        effects=Effects.OPAQUE,
        lease=timedelta(seconds=30),
    )
    assert await store.claim(claim) is None
    assert await store.hold(name, fence, "its server stopped")
    return name


@pytest.mark.slow
def test_the_tutorial(tmp_path: Path) -> None:
    """Its commands, in their order, do what it says."""
    address = free_address()
    for file in (EXAMPLES / "tutorial").iterdir():
        if file.is_file():
            (tmp_path / file.name).write_text(file.read_text().replace(ADDRESS, address))
    page = ROOT / "docs/tutorial/first-server.md"
    _set_up, compiling, calling = (text.replace(".venv/bin/", "") for text in blocks(page, "sh"))
    assert blocks(page, "proto") == [(EXAMPLES / "tutorial/payments.proto").read_text()]
    shell(compiling, tmp_path)
    with running(address, tmp_path, "server.py") as server:
        first, second = shell(calling, tmp_path).splitlines()
        receipt = first.split()[1]
        assert receipt == second.split()[1]
        assert "'executed'" in first
        assert "'replayed'" in second
        server.send_signal(signal.SIGINT)
        server.wait(20)
        assert server.returncode == 0
    with running(address, tmp_path, "server.py"):
        assert receipt in shell("python client.py order-1 500", tmp_path)
        assert "FAILED_PRECONDITION" in shell("python client.py order-1 700 2>&1 || true", tmp_path)
        assert receipt not in shell("python client.py order-2 500", tmp_path)
    log = (tmp_path / "server.log").read_text().splitlines()
    assert [line.split()[0] for line in log] == ["serving", "charging", "serving", "charging"]


@pytest.mark.skipif(not BUF.exists(), reason="buf is not installed")
@pytest.mark.slow
def test_calls_by_buf_curl(tmp_path: Path) -> None:
    """The lines of README, against the shop: twice under one key, the same id; executed, then replayed."""
    making, keyed, listing = (
        block for block in blocks(ROOT / "README.md", "console") if "key=" in block or "buf curl" in block
    )
    with shop(tmp_path) as address:
        key = making.removeprefix("make setup\n")
        once, listing = _here(keyed, address), _here(listing, address)
        first, second = shell(f"{key}{once}echo ---\n{once}", ROOT).split("---")
        listed = shell(listing, ROOT)
    found = re.search(r'"id": "(order-\w+)"', first)
    assert found is not None
    assert "Idempotency-Status: executed" in first
    assert found[0] in second
    assert "Idempotency-Status: replayed" in second
    assert re.findall(r'"id": "(.*)"', listed) == [found[1]]


def _here(block: str, address: str) -> str:
    assert ADDRESS in block
    return block.replace(ADDRESS, address).replace(".venv/bin/buf", str(BUF))


@pytest.mark.slow
def test_the_stubs_in_python(tmp_path: Path) -> None:
    """The lines of README that call the shop from Python run the examples that are tested above."""
    assert [
        block for block in blocks(ROOT / "README.md", "console") if "docs/examples" in block and "buf" not in block
    ] == [
        ".venv/bin/python docs/examples/client.py\n",
        ".venv/bin/python docs/examples/checkout.py 127.0.0.1:50052 127.0.0.1:50051\n",
    ]


@pytest.mark.slow
def test_another_project_compiles_the_protos(tmp_path: Path) -> None:
    """README's lines make stubs that work, in another folder."""
    (compiling,) = (block for block in blocks(ROOT / "README.md", "console") if "grpc_tools.protoc" in block)
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    shell(compiling, tmp_path)
    elsewhere = f"import sys; sys.path.remove({str(ROOT / 'server')!r})"  # where that other project knows no shop
    code = f"{elsewhere}; from shop.orders.v1 import orders_pb2_grpc as made; print(made.__file__)"
    assert str(tmp_path) in shell(f'python -c "{code}"', tmp_path)
