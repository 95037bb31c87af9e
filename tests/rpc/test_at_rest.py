"""What stands in the store's files, and for how long (3.1, 6.5)."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from grpc_idempotency import Effects, Policy, SQLiteStore
from grpc_idempotency.records import Claim, Fingerprint, StoredRequest
from shop.orders.v1.orders_pb2 import CreateOrderRequest, Order

from ..harness.handlers import EACH_SERVER, Method
from ..harness.replies import Reply, new_key
from ..harness.servers import Servers, Service
from ..harness.waiting import Gate

KINDS = EACH_SERVER

ORDERS = "shop.orders.v1.OrderService"
SECRET = b"a secret that nobody can guess"
PRINCIPAL = "ann-the-principal"
CUSTOMER = "the-customer-of-the-request"
REPEATABLE = Policy(effects=Effects.REPEATABLE)


class Orders:
    """CreateOrder as a handler that runs until it is let go; its calls, and its store's files."""

    def __init__(self, serve: Servers, secret: bytes | None, policy: Policy = REPEATABLE) -> None:
        self._serve = serve
        self._options: dict[str, Any] = {"secret": secret, "policy": policy, "principal": lambda _caller: PRINCIPAL}
        self.began = Gate()
        self.go = Gate()
        self.code = grpc.StatusCode.OK
        self.service: Service

    async def start(self) -> None:
        methods = {"CreateOrder": Method(run=self._create, request=CreateOrderRequest, reply=Order)}
        self.service = await self._serve(methods, service=ORDERS, **self._options)

    async def _create(self, _request: CreateOrderRequest, context: Any) -> Order:
        self.began.open()
        await self.go.wait()
        if self.code is not grpc.StatusCode.OK:
            await context.abort(self.code, "not now")
        return Order(id="order-1")

    def call(self, *, request_id: str = "", key: str | None = None, padding: int = 0) -> "asyncio.Task[Reply]":
        request = CreateOrderRequest(request_id=request_id, customer_id=CUSTOMER + "x" * padding)
        return asyncio.create_task(self.service.call("CreateOrder", request, key=key))

    def stored(self) -> bytes:
        """All that stands in the store's files."""
        files = list(self._serve.path.parent.glob("records.db*"))
        assert files
        return b"".join(file.read_bytes() for file in files)

    async def closed(self) -> bytes:
        """The same, once the store is closed."""
        await self.service.stop()
        await self.service.store.close()
        return self.stored()


@pytest.mark.parametrize("secret", [None, SECRET])
@pytest.mark.parametrize("padding", [0, 20_000])
async def test_a_request_is_there_until_it_is_completed(serve: Servers, secret: bytes | None, padding: int) -> None:
    """For recovery request and principal are kept while it runs; then the file itself has nothing of them (6.5)."""
    orders, key = Orders(serve, secret), new_key()
    await orders.start()
    calling = orders.call(key=key, padding=padding)
    await orders.began.wait()
    running = orders.stored()
    assert CUSTOMER.encode() in running
    assert PRINCIPAL.encode() in running
    assert key.encode() not in running
    orders.go.open()
    assert (await calling).mark == "executed"
    after = await orders.closed()
    assert not [told for told in (key, CUSTOMER, PRINCIPAL) if told.encode() in after]


async def test_a_key_in_the_request_is_not_kept_where_there_is_a_secret(serve: Servers) -> None:
    """With a secret a request that carries its key is not stored: at no time does the key stand anywhere (6.5)."""
    orders, key = Orders(serve, SECRET), new_key()
    await orders.start()
    calling = orders.call(request_id=key)
    await orders.began.wait()
    running = orders.stored()
    orders.go.open()
    assert (await calling).mark == "executed"
    assert (await orders.call(request_id=key)).mark == "replayed"
    done = orders.stored()
    for stored in (running, done, await orders.closed()):
        assert not [told for told in (key, CUSTOMER, PRINCIPAL) if told.encode() in stored]


@pytest.mark.parametrize(("secret", "told"), [(SECRET, True), (None, False)])
async def test_what_recovery_leaves_to_clients_is_told(
    serve: Servers, caplog: pytest.LogCaptureFixture, secret: bytes | None, told: bool
) -> None:
    """At start the log says which methods' operations only a retry finishes (5.4, 6.5)."""
    caplog.set_level("INFO", logger="grpc_idempotency")
    await Orders(serve, secret).start()
    assert (f"such an operation of /{ORDERS}/CreateOrder" in caplog.text) is told


async def test_a_key_in_the_request_goes_with_it(serve: Servers) -> None:
    """Without a secret it is kept with the request, and gone with it (6.5)."""
    orders, key = Orders(serve, None), new_key()
    await orders.start()
    calling = orders.call(request_id=key)
    await orders.began.wait()
    assert key.encode() in orders.stored()
    orders.go.open()
    assert (await calling).mark == "executed"
    assert key.encode() not in await orders.closed()


async def test_a_release_leaves_nothing(serve: Servers) -> None:
    """A released operation is gone from the file as well (4.6, 6.5)."""
    orders, key = Orders(serve, None), new_key()
    orders.code = grpc.StatusCode.UNAVAILABLE
    await orders.start()
    orders.go.open()
    assert (await orders.call(request_id=key)).status is grpc.StatusCode.UNAVAILABLE
    after = await orders.closed()
    assert not [told for told in (key, CUSTOMER, PRINCIPAL) if told.encode() in after]


async def test_a_held_operation_has_no_request(tmp_path: Path) -> None:
    """Nobody runs a held operation again, so what recovery would have needed goes (5.4, 6.5)."""
    store = SQLiteStore(tmp_path / "records.db")
    claim = Claim(
        name=b"n" * 16,
        method="/s/M",
        fence=b"f" * 16,
        fingerprint=Fingerprint(raw=b"r" * 32, canonical=b"c" * 32),
        effects=Effects.REPEATABLE,
        lease=timedelta(minutes=1),
        request=StoredRequest(principal=PRINCIPAL.encode(), metadata=(), messages=(CUSTOMER.encode(),)),
    )
    assert store.claim(claim) is None
    assert store.hold(claim.name, claim.fence, "for the test")
    store.close()
    left = (tmp_path / "records.db").read_bytes()
    assert PRINCIPAL.encode() not in left
    assert CUSTOMER.encode() not in left


@pytest.mark.parametrize("policy", [Policy(), Policy(effects=Effects.REPEATABLE, recover=False)])
async def test_without_recovery_nothing_is_kept(serve: Servers, policy: Policy) -> None:
    """A policy without recovery stores neither key nor request nor principal, at any time (3.1, 6.5)."""
    orders, key = Orders(serve, None, policy), new_key()
    await orders.start()
    calling = orders.call(request_id=key)
    await orders.began.wait()
    assert not [told for told in (key, CUSTOMER, PRINCIPAL) if told.encode() in orders.stored()]
    orders.go.open()
    assert (await calling).mark == "executed"
