"""What a call leaves in the log, and what its caller hears when something is broken."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from tests.shop.helpers import Client, bad_fields, create_order, reason, retry_seconds, trailer

from grpc_idempotency import StoreUnavailable
from shop.orders.v1.orders_pb2 import GetOrderRequest, ListOrdersRequest, Order, WatchOrderRequest

KEY = (("idempotency-key", "a-secret-key"),)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The lines of the call log so far."""
    caplog.set_level(logging.INFO, "shop.calls")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "shop.calls"]


def break_store(client: Client, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    async def broken(_fn: Any) -> Any:
        raise error

    for way in ("transaction", "read"):
        monkeypatch.setattr(client.shop.data, way, broken)


def ways_to_fail(client: Client) -> list[Any]:
    """A call of each kind, none with a key."""
    return [
        client.orders.CreateOrder(create_order()),
        client.orders.ListOrders(ListOrdersRequest()),
        client.orders.WatchOrder(WatchOrderRequest(id="order-1")).read(),
        client.orders.ImportOrders(iter([create_order()])),
    ]


async def test_a_line_says_what_became_of_a_call(client: Client, log: Callable[[], list[str]]) -> None:
    """Method, status, time, what became of the key, and peer, for each kind of call; nothing of what it said."""
    order = await client.orders.CreateOrder(create_order())
    for _ in range(2):
        await client.orders.CreateOrder(create_order(), metadata=KEY)
    with pytest.raises(grpc.aio.AioRpcError):
        await client.orders.CreateOrder(create_order(customer_id=""), metadata=KEY)
    with pytest.raises(grpc.aio.AioRpcError):
        await client.orders.GetOrder(GetOrderRequest(id="order-none"))
    await client.orders.ImportOrders(iter([create_order()]))
    health: Any = HealthStub(client.channel)
    await health.Check(HealthCheckRequest())
    words = [line.split() for line in log()]
    method = "/shop.orders.v1.OrderService/"
    assert [(line[0].removeprefix(method), line[1], line[4]) for line in words] == [
        ("CreateOrder", "OK", "-"),
        ("CreateOrder", "OK", "executed"),
        ("CreateOrder", "OK", "replayed"),
        ("CreateOrder", "FAILED_PRECONDITION", "refused"),
        ("GetOrder", "NOT_FOUND", "-"),
        ("ImportOrders", "OK", "-"),
    ]
    assert all(float(line[2]) >= 0 and line[3] == "ms" and line[5].startswith("ipv4:127.0.0.1:") for line in words)
    assert not any(said in " ".join(log()) for said in ("a-secret-key", "cust_123", order.id))


async def test_a_cancelled_call_has_its_line(client: Client, log: Callable[[], list[str]]) -> None:
    """A watcher who leaves is logged as CANCELLED."""
    order = await client.orders.CreateOrder(create_order())
    watch = client.orders.WatchOrder(WatchOrderRequest(id=order.id))
    await watch.read()
    logged = asyncio.Event()

    def noted(_record: logging.LogRecord) -> bool:
        logged.set()
        return True

    logger = logging.getLogger("shop.calls")
    logger.addFilter(noted)
    try:
        watch.cancel()
        await asyncio.wait_for(logged.wait(), timeout=10)
    finally:
        logger.removeFilter(noted)
    assert "/WatchOrder CANCELLED" in log()[-1]


async def test_a_method_that_is_not_there_is_no_call_of_ours(client: Client) -> None:
    """GRPC itself answers for a method that nobody serves."""
    nothing: Any = client.channel.unary_unary("/shop.orders.v1.OrderService/Nothing")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await nothing(b"")
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_text_of_an_exception_stays_here(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A caller hears of a bug that there is one, and the log hears the rest."""
    break_store(client, monkeypatch, RuntimeError("password=secret"))
    for call in ways_to_fail(client):
        with pytest.raises(grpc.aio.AioRpcError) as broken:
            await call
        assert broken.value.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
        assert broken.value.details() == "internal error"
    assert caplog.text.count("password=secret") >= 4


@pytest.mark.parametrize(("landed", "said"), [(False, "Nothing has changed"), (None, "Nobody can know")])
async def test_a_database_that_is_away_is_unavailable(
    client: Client, monkeypatch: pytest.MonkeyPatch, landed: bool | None, said: str
) -> None:
    """Without a key the shop says UNAVAILABLE, when to come again, and whether the call may have taken effect."""
    break_store(client, monkeypatch, StoreUnavailable("/srv/shop.db is locked", landed=landed))
    for call in ways_to_fail(client):
        with pytest.raises(grpc.aio.AioRpcError) as away:
            await call
        assert away.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reason(away.value) == "DATABASE_UNAVAILABLE"
        assert said in (away.value.details() or "")
        assert "/srv" not in (away.value.details() or "")
        assert retry_seconds(away.value) == 1


async def test_with_a_key_the_interceptor_answers_for_the_database(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A keyed call whose transaction can't be committed is UNAVAILABLE too, and its key free for the retry."""
    with monkeypatch.context() as broken:
        break_store(client, broken, StoreUnavailable("locked", landed=False))
        with pytest.raises(grpc.aio.AioRpcError) as away:
            await client.orders.CreateOrder(create_order(), metadata=KEY)
    assert away.value.code() is grpc.StatusCode.UNAVAILABLE
    call = client.orders.CreateOrder(create_order(), metadata=KEY)
    assert isinstance(await call, Order)
    assert trailer(await call.trailing_metadata(), "idempotency-status") == "executed"


async def test_a_refusal_of_a_long_name_is_short(client: Client) -> None:
    """A refusal repeats only the beginning of a long name, so that its metadata keeps its limit."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.orders.GetOrder(GetOrderRequest(id="ä" * 100))
    assert reason(refused.value) == "ORDER_NOT_FOUND"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.orders.GetOrder(GetOrderRequest(id="ä" * 100_000))
    assert bad_fields(refused.value) == ["id"]
