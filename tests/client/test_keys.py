"""Which calls of a client get a key, and that each keeps it (issue 4, 3)."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import ClientInterceptor, ClientPolicy, PolicyError
from shop.orders.v1.orders_pb2 import CreateOrderRequest, GetOrderRequest, Order

from ..harness.handlers import SERVICE, Counting
from ..harness.replies import COUNT, KEY, text
from .net import Net

ORDERS = "shop.orders.v1.OrderService"


async def order(_request: Any, _context: Any) -> Order:
    return Order(id="order-1")


async def test_every_call_gets_a_new_key(net: Net) -> None:
    """Each call of a method about which nothing is known carries a UUID of version 7 of its own."""
    server = await net.serve({"Do": Counting()})
    client = await net.client(server.target)
    before = time.time_ns() // 1_000_000
    replies = [await client.call("Do", "same request") for _ in range(2)]
    assert [reply.mark for reply in replies] == ["executed", "executed"]
    first, second = (uuid.UUID(key) for key in server.seen.of())
    assert first != second
    for key in (first, second):
        assert (key.version, key.variant) == (7, uuid.RFC_4122)
        assert before <= key.int >> 80 <= time.time_ns() // 1_000_000


async def test_grpcs_own_retries_keep_the_key(net: Net) -> None:
    """A handler that fails twice is called three times by gRPC's retryPolicy, under one key."""
    calls: list[str] = []

    async def do(request: StringValue, context: Any) -> StringValue:
        calls.append(request.value)
        if len(calls) < 3:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        return text("done")

    retries = {
        "maxAttempts": 5,
        "initialBackoff": "0.01s",
        "maxBackoff": "0.02s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    server = await net.serve({"Do": do})
    client = await net.client(server.target, config={"methodConfig": [{"name": [{}], "retryPolicy": retries}]})
    assert (await client.call("Do")).texts == ["done"]
    assert len(server.seen.of()) == 3
    assert len(set(server.seen.of())) == 1


async def test_a_callers_key_is_kept(net: Net) -> None:
    """A key in the metadata is the call's one key, and the rest of the metadata comes as it was."""
    server = await net.serve({"Do": Counting()})
    client = await net.client(server.target)
    for status in ("executed", "replayed"):
        assert (await client.call("Do", metadata=((KEY, "mine"), ("x-other", "1")))).mark == status
    assert server.seen.of() == ["mine", "mine"]
    await client.call("Do", metadata=[("x-other", "2")])
    assert server.seen.of()[2] not in (None, "mine")
    assert [metadata["x-other"] for _, metadata in server.seen.calls] == ["1", "1", "2"]


OTHERS = (("authorization", "token"), ("x-other-bin", b"\x00\xff"))


@pytest.mark.parametrize(
    ("method", "shape"),
    [("Do", "unary_unary"), ("Many", "unary_stream"), ("Join", "stream_unary"), ("Chat", "stream_stream")],
)
@pytest.mark.parametrize("keyed", [True, False])
async def test_metadata_may_be_any_iterable(net: Net, method: str, shape: str, keyed: bool) -> None:
    """A generator of metadata is taken, as by gRPC; its entries arrive, and a key among them is found."""
    server = await net.serve({"Do": Counting()}, protected=False)
    client = await net.client(server.target, policy=ClientPolicy(keyed=keyed))
    for mine in ((), ((KEY, "mine"),)):
        requests = iter([text("")]) if shape.startswith("stream") else ""
        await client.call(method, requests, shape=shape, metadata=(entry for entry in (*OTHERS, *mine)))
    (_, first), (_, second) = server.seen.calls
    for metadata in (first, second):
        assert {name: metadata[name] for name, _ in OTHERS} == dict(OTHERS)
    assert (KEY in first) is keyed
    assert second[KEY] == "mine"


@pytest.mark.parametrize("form", [tuple, list, lambda entries: grpc.aio.Metadata(*entries)])
async def test_metadata_that_callers_share_stays_theirs(net: Net, form: Any) -> None:
    """Metadata that a caller passes to several calls is not changed, and each call gets a key of its own."""
    server = await net.serve({"Do": Counting()})
    client = await net.client(server.target)
    shared = form(OTHERS)
    for _ in range(2):
        await client.call("Do", metadata=shared)
    assert list(shared) == list(OTHERS)
    assert len(set(server.seen.of())) == 2


async def test_a_request_id_is_the_key(net: Net) -> None:
    """A request that has a request_id gets no other key; one whose request_id is empty gets one (AIP-155)."""
    server = await net.serve({"CreateOrder": order}, service=ORDERS, request=CreateOrderRequest, reply=Order)
    client = await net.client(server.target, service=ORDERS)
    for request_id in ("given", ""):
        reply = await client.call("CreateOrder", CreateOrderRequest(request_id=request_id), reply=Order)
        assert reply.mark == "executed"
    given, minted = server.seen.of()
    assert given is None
    assert minted is not None


async def test_methods_without_side_effects_get_none(net: Net) -> None:
    """A method that its proto marks NO_SIDE_EFFECTS goes un-keyed, unless the policy asks for a key."""
    server = await net.serve({"GetOrder": order}, service=ORDERS, request=GetOrderRequest, reply=Order)
    client = await net.client(server.target, service=ORDERS)
    await client.call("GetOrder", GetOrderRequest(id="order-1"), reply=Order)
    asking = await net.client(server.target, service=ORDERS, policy=ClientPolicy(keyed=True))
    await asking.call("GetOrder", GetOrderRequest(id="order-1"), reply=Order)
    none, some = server.seen.of()
    assert none is None
    assert some is not None


async def test_policies_go_by_name_and_glob(net: Net) -> None:
    """A name is stronger than a glob, a glob than the default; the header is the policy's."""
    methods = {
        f"/{SERVICE}/Quiet*": ClientPolicy(keyed=False),
        f"/{SERVICE}/QuietNot": ClientPolicy(headers=("x-idempotency-key", KEY)),
    }
    server = await net.serve({name: Counting() for name in ("Do", "QuietOne", "QuietNot")})
    client = await net.client(server.target, methods=methods)
    for name in ("Do", "QuietOne", "QuietNot"):
        await client.call(name)
    await client.call("QuietNot", metadata=((KEY, "mine"),))
    assert [metadata.keys() & {KEY, "x-idempotency-key"} for _, metadata in server.seen.calls] == [
        {KEY},
        set(),
        {"x-idempotency-key"},
        {KEY},
    ]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ClientPolicy(count_up_to=-1),
        lambda: ClientPolicy(headers=("Upper",)),
        lambda: ClientInterceptor(methods={"Do": ClientPolicy()}),
    ],
)
def test_a_policy_that_cannot_be_met_is_told(make: Any) -> None:
    """A mistake in the configuration raises, and names what is wrong."""
    with pytest.raises(PolicyError, match=r"ClientPolicy\.|names no method"):
        make()


# Streams


async def test_a_server_stream_is_keyed(net: Net) -> None:
    """A server-stream is executed under its key, and replayed under it."""
    server = await net.serve({})
    client = await net.client(server.target)
    first = await client.call("Many", "m", shape="unary_stream")
    assert (first.texts, first.mark) == (["m0", "m1", "m2"], "executed")
    again = await client.call("Many", "m", shape="unary_stream", metadata=((KEY, str(server.seen.of()[0])),))
    assert (again.texts, again.mark) == (first.texts, "replayed")


async def test_a_client_stream_of_known_length_is_counted(net: Net) -> None:
    """The messages of a collection, or of a list's iterator, are announced, so that the keyed stream runs (4.8)."""
    server = await net.serve({})
    client = await net.client(server.target)
    messages = [text("a"), text("b")]
    for requests in (messages, tuple(messages), iter(messages), _Sized(messages)):
        reply = await client.call("Join", requests, shape="stream_unary")
        assert (reply.texts, reply.mark) == (["a+b"], "executed")
    assert [metadata[COUNT] for _, metadata in server.seen.calls] == ["2"] * 4


class _Sized:
    """A collection that is no list."""

    def __init__(self, messages: list[StringValue]) -> None:
        self._messages = messages

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[StringValue]:
        return iter(self._messages)


def _generated(net: Net, count: int) -> Any:
    """Messages of which nobody knows how many there are."""

    async def in_loop() -> AsyncIterator[StringValue]:
        for number in range(count):
            yield text(str(number))

    return in_loop() if net.kind == "async" else (text(str(number)) for number in range(count))


async def test_an_iterator_is_passed_as_it_is(net: Net) -> None:
    """Nothing is read of an iterator beforehand: the call is keyed and uncounted, which its server tells of."""
    server = await net.serve({})
    client = await net.client(server.target)
    await client.refused("Join", shape="stream_unary", details="their number has to be announced")
    assert COUNT not in server.seen.calls[0][1]
    reply = await client.call("Join", _generated(net, 2), shape="stream_unary", metadata=((COUNT, "2"),))
    assert (reply.texts, reply.mark) == (["0+1"], "executed")


async def test_an_iterator_is_counted_where_the_policy_says(net: Net) -> None:
    """Up to its limit a stream is read and counted; a longer one is sent whole, and uncounted."""
    server = await net.serve({}, protected=False)
    client = await net.client(server.target, policy=ClientPolicy(count_up_to=2))
    for count in (2, 3):
        reply = await client.call("Join", _generated(net, count), shape="stream_unary")
        assert reply.texts == ["+".join(map(str, range(count)))]
    assert [metadata.get(COUNT) for _, metadata in server.seen.calls] == ["2", None]


@pytest.mark.parametrize("net", ["async"], indirect=True)
async def test_messages_that_are_written_are_not_waited_for(net: Net) -> None:
    """A call whose messages are written after it began begins, also where iterators are counted."""
    server = await net.serve({}, protected=False)
    client = await net.client(server.target, policy=ClientPolicy(count_up_to=5))
    call = client.stub("Join", "stream_unary")(timeout=20)
    await asyncio.wait_for(call.write(text("a")), 10)
    await call.done_writing()
    assert (await call).value == "a"
    assert COUNT not in server.seen.calls[0][1]


async def test_bidirectional_streams_get_none(net: Net) -> None:
    """A bidirectional stream goes un-keyed, unless the policy asks for a key."""
    server = await net.serve({})
    client = await net.client(server.target)
    reply = await client.call("Chat", iter([text("a")]), shape="stream_stream")
    assert (reply.texts, reply.mark) == (["re a"], None)
    asking = await net.client(server.target, policy=ClientPolicy(keyed=True))
    await asking.refused("Chat", shape="stream_stream", details="is a bidirectional stream")


async def test_everything_else_of_a_call_passes_through(net: Net) -> None:
    """Deadlines and wait_for_ready stay the caller's."""
    server = await net.serve({"Do": Counting()})
    client = await net.client(server.target)
    assert (await client.call("Do", wait_for_ready=True)).mark == "executed"
    nowhere = await net.client("127.0.0.1:1")
    with pytest.raises(grpc.RpcError) as waited:
        await nowhere.call("Do", wait_for_ready=True, timeout=0.1)
    assert waited.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(grpc.RpcError) as refused:
        await nowhere.call("Do", wait_for_ready=False)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
