"""Every refusal that a call can meet: status, details, trailers and words (2.3)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2

from grpc_idempotency import Caller, Policy, Reason, SQLiteStore, aio

from ..harness.handlers import EACH_SERVER, Blocking, Counting, Method, full
from ..harness.replies import COUNT, KEY, PUSH_BACK, STATUS_DETAILS, Reply, new_key, refused
from ..harness.servers import Servers
from ..harness.stores import FlakyStore
from ..harness.waiting import ms

KINDS = EACH_SERVER

BAD_REQUEST, RETRY_INFO = error_details_pb2.BadRequest, error_details_pb2.RetryInfo
INVALID, UNAVAILABLE = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION

Streams = tuple[Callable[..., Awaitable[Reply]], Callable[[], int]]
"""What calls a streaming method, and what tells how often it ran."""


def info_of(reply: Reply) -> dict[str, str]:
    """The ErrorInfo's metadata; all of it is in the message."""
    info = reply.detail(error_details_pb2.ErrorInfo)
    assert info.domain == "grpc-idempotency"
    metadata = dict(info.metadata)
    for value in metadata.values():
        assert value in reply.details, reply
    return metadata


def readable(reply: Reply, *words: str) -> None:
    """The message alone tells a person what happened and what to do."""
    assert reply.details.endswith("."), reply.details
    assert "{" not in reply.details
    for word in words:
        assert word in reply.details, reply.details


def bare(reply: Reply) -> None:
    """Neither BadRequest nor RetryInfo nor push-back."""
    assert reply.detail(BAD_REQUEST) is None
    assert reply.detail(RETRY_INFO) is None
    assert reply.trailer(PUSH_BACK) is None


async def test_key_invalid(serve: Servers) -> None:
    """KEY_INVALID: INVALID_ARGUMENT with a BadRequest that names the header; tells how the key is wrong (2.3)."""
    service = await serve({"Do": Counting()})
    reply = await service.call("Do", key="x" * 300)
    refused(reply, "KEY_INVALID", INVALID)
    readable(reply, "idempotency-key", "300 characters", "1 to 255 printable ASCII")
    assert info_of(reply) == {"field": "idempotency-key", "problem": "it has 300 characters"}
    (violation,) = reply.detail(BAD_REQUEST).field_violations
    assert (violation.field, violation.description) == ("idempotency-key", reply.details)
    assert [name for name, _ in reply.trailers] == ["idempotency-status", STATUS_DETAILS]


async def test_key_required(serve: Servers) -> None:
    """KEY_REQUIRED: INVALID_ARGUMENT with a BadRequest, where the policy asks for a key and none came (2.3)."""
    handler = Counting()
    service = await serve({"Do": handler}, policies={"Do": Policy(required=True)})
    reply = await service.call("Do")
    refused(reply, "KEY_REQUIRED", INVALID)
    readable(reply, full("Do"), "the same key with each retry")
    assert info_of(reply) == {"field": "idempotency-key", "method": full("Do")}
    (violation,) = reply.detail(BAD_REQUEST).field_violations
    assert violation.field == "idempotency-key"
    assert handler.runs == 0
    assert (await service.call("Do", key=new_key())).mark == "executed"


async def test_principal_required(serve: Servers) -> None:
    """PRINCIPAL_REQUIRED: UNAUTHENTICATED, where the scope function finds no principal (2.3, 3.1)."""
    handler = Counting()
    service = await serve({"Do": handler}, principal=lambda _: None)
    reply = await service.call("Do", key=new_key())
    refused(reply, "PRINCIPAL_REQUIRED", grpc.StatusCode.UNAUTHENTICATED)
    readable(reply, full("Do"), "Authenticate")
    assert info_of(reply) == {"method": full("Do")}
    bare(reply)
    assert handler.runs == 0


async def test_store_unavailable(serve: Servers) -> None:
    """STORE_UNAVAILABLE: UNAVAILABLE with RetryInfo; the handler did not run (2.3, 5.5)."""
    handler = Counting()
    store = FlakyStore(serve.path)
    service = await serve({"Do": handler}, store=store)
    store.down.add("claim")
    reply = await service.call("Do", key=new_key())
    refused(reply, "STORE_UNAVAILABLE", UNAVAILABLE)
    readable(reply, "The handler did not run", "Retry with the same key")
    info_of(reply)
    assert reply.detail(RETRY_INFO).retry_delay.ToTimedelta() > ms(0)
    assert handler.runs == 0


async def test_key_reused(serve: Servers) -> None:
    """KEY_REUSED: FAILED_PRECONDITION for another request under the same key (2.3)."""
    handler = Counting()
    service = await serve({"Do": handler})
    key = new_key()
    await service.call("Do", "buy one of them", key=key)
    reply = await service.call("Do", "buy two of them", key=key)
    refused(reply, "KEY_REUSED", PRECONDITION)
    readable(reply, full("Do"), "Use a new key")
    assert info_of(reply) == {"method": full("Do")}
    bare(reply)
    assert handler.runs == 1


async def test_key_reused_is_told_at_once(serve: Servers) -> None:
    """KEY_REUSED does not wait for the running operation, and leaves it alone (2.3)."""
    handler = Blocking()
    service = await serve({"Do": handler})
    key = new_key()
    first = asyncio.ensure_future(service.call("Do", "buy one of them", key=key))
    await handler.began.wait()
    refused(await service.call("Do", "buy two of them", key=key), "KEY_REUSED", PRECONDITION)
    assert not handler.go.opened
    handler.go.open()
    assert (await first).mark == "executed"


async def test_key_reused_is_told_at_once_by_another_server(serve: Servers) -> None:
    """So does another server on the same store: told at once, whatever state it is in (2.3)."""
    handler = Blocking()
    service = await serve({"Do": handler})
    other = await serve({"Do": Counting()})
    key = new_key()
    first = asyncio.ensure_future(service.call("Do", "buy one of them", key=key))
    await handler.began.wait()
    refused(await other.call("Do", "buy two of them", key=key), "KEY_REUSED", PRECONDITION)
    handler.go.open()
    assert (await first).mark == "executed"


async def test_outcome_unknown(serve: Servers, kind: str) -> None:
    """OUTCOME_UNKNOWN: FAILED_PRECONDITION; says that an operator can resolve the operation, and how (2.3, 6.4)."""
    handler = Blocking()
    service = await serve({"Do": handler}, policy=Policy(execution_limit=ms(50)))
    key = new_key()
    for reply in [await service.call("Do", key=key) for _ in range(3)]:
        refused(reply, "OUTCOME_UNKNOWN", PRECONDITION)
        readable(reply, "operator", "it completed", "it never happened", "grpc-idempotency resolve")
        record = await service.the_record()
        assert info_of(reply) == {"cause": record.reason, "operation": record.name.hex()}
        bare(reply)
    handler.go.open()
    assert handler.runs == 1


async def test_response_not_retained(serve: Servers) -> None:
    """RESPONSE_NOT_RETAINED: it succeeded, but its response was larger than may be kept (2.3, 4.11)."""

    async def large(_request: Any, _context: Any) -> StringValue:
        return StringValue(value="x" * 200)

    service = await serve({"Do": large}, policy=Policy(max_response_bytes=100))
    key = new_key()
    first = await service.call("Do", key=key)
    assert (first.mark, len(first.text)) == ("executed", 200)
    reply = await service.call("Do", key=key)
    refused(reply, "RESPONSE_NOT_RETAINED", PRECONDITION)
    readable(reply, "succeeded", "do not repeat it under a new key")
    info = info_of(reply)
    assert info.pop("created")
    assert info == {"status": "OK", "cause": "It succeeded, but its response was larger than may be kept"}
    bare(reply)


async def test_in_flight(serve: Servers) -> None:
    """IN_FLIGHT: UNAVAILABLE with RetryInfo and gRPC's push-back, both saying the same (2.3)."""
    handler = Blocking()
    service = await serve({"Do": handler}, policy=Policy(wait=ms(0)))
    key = new_key()
    first = asyncio.ensure_future(service.call("Do", key=key))
    await handler.began.wait()
    reply = await service.call("Do", key=key)
    refused(reply, "IN_FLIGHT", UNAVAILABLE)
    push_back = reply.trailer(PUSH_BACK)
    assert isinstance(push_back, str)
    readable(reply, "still running", f"in {push_back} ms")
    assert info_of(reply) == {"retry_after_ms": push_back}
    assert reply.detail(RETRY_INFO).retry_delay.ToTimedelta() == ms(int(push_back))
    handler.go.open()
    assert (await first).mark == "executed"


async def streaming(serve: Servers, gives_stream: bool, **options: Any) -> Streams:
    """A service with one method that takes a stream of bytes and echoes it, in one message or as many as came."""
    runs = 0

    async def answers_stream(requests: Any, _context: Any) -> AsyncIterator[bytes]:
        nonlocal runs
        runs += 1
        async for message in requests:
            yield message

    async def answers_one(requests: Any, _context: Any) -> bytes:
        nonlocal runs
        runs += 1
        return b"".join([message async for message in requests])

    run = answers_stream if gives_stream else answers_one
    method = Method(run=run, takes_stream=True, gives_stream=gives_stream, request=None, reply=None)
    service = await serve({"Do": method}, attach=False, **options)

    async def call(*messages: bytes, key: str | None = None, count: str | None = None) -> Reply:
        metadata = [(KEY, key), (COUNT, count)]
        sent = [(name, value) for name, value in metadata if value is not None]
        return await service.blocking("Do", *messages, metadata=sent)

    return call, lambda: runs


async def test_streaming_unsupported(serve: Servers) -> None:
    """STREAMING_UNSUPPORTED: UNIMPLEMENTED for a keyed bidirectional call; without a key it is left alone (2.3)."""
    call, runs = await streaming(serve, True)
    reply = await call(b"1", b"2")
    assert (reply.status, reply.messages, reply.trailers) == (grpc.StatusCode.OK, (b"1", b"2"), ())
    reply = await call(b"1", b"2", key=new_key())
    refused(reply, "STREAMING_UNSUPPORTED", grpc.StatusCode.UNIMPLEMENTED)
    readable(reply, full("Do"), "bidirectional", "Call it without one")
    assert info_of(reply) == {"method": full("Do")}
    bare(reply)
    assert (reply.messages, runs()) == ((), 1)


async def test_a_bidirectional_stream_that_is_passed(serve: Servers) -> None:
    """By policy a keyed bidirectional call is passed through as if it had no key (4.8)."""
    call, runs = await streaming(serve, True, policy=Policy(pass_bidirectional=True))
    key = new_key()
    for _ in range(2):
        reply = await call(b"1", b"2", key=key)
        assert (reply.status, reply.messages, reply.trailers) == (grpc.StatusCode.OK, (b"1", b"2"), ())
    assert runs() == 2


@pytest.mark.parametrize("count", [None, "", "-1", "2.0", "two", "9" * 30])
async def test_stream_length_required(serve: Servers, count: str | None) -> None:
    """STREAM_LENGTH_REQUIRED: INVALID_ARGUMENT with a BadRequest; a keyed client-stream must say its length (2.3)."""
    call, runs = await streaming(serve, False)
    reply = await call(b"1", b"2", key=new_key(), count=count)
    refused(reply, "STREAM_LENGTH_REQUIRED", INVALID)
    readable(reply, full("Do"), "idempotency-message-count", "cut off")
    assert set(info_of(reply)) == {"method", "field", "problem"}
    (violation,) = reply.detail(BAD_REQUEST).field_violations
    assert (violation.field, violation.description) == ("idempotency-message-count", reply.details)
    assert runs() == 0
    reply = await call(b"1", b"2", key=new_key(), count="2")
    assert (reply.mark, reply.messages, runs()) == ("executed", (b"12",), 1)


async def test_more_messages_than_announced(serve: Servers) -> None:
    """A stream that turns out longer than it was announced is STREAM_LENGTH_REQUIRED too (2.3, 4.8)."""
    call, runs = await streaming(serve, False)
    reply = await call(b"1", b"2", b"3", key=new_key(), count="2")
    refused(reply, "STREAM_LENGTH_REQUIRED", INVALID)
    assert runs() == 0


async def test_stream_truncated(serve: Servers) -> None:
    """STREAM_TRUNCATED: CANCELLED where fewer messages came than were announced; nothing was executed (2.3)."""
    call, runs = await streaming(serve, False)
    key = new_key()
    reply = await call(b"1", b"2", key=key, count="3")
    refused(reply, "STREAM_TRUNCATED", grpc.StatusCode.CANCELLED)
    readable(reply, "Only 2 of the 3", "nothing was executed", "the same key")
    assert info_of(reply) == {"method": full("Do"), "received": "2", "announced": "3"}
    bare(reply)
    assert runs() == 0
    reply = await call(b"1", b"2", b"3", key=key, count="3")
    assert (reply.mark, runs()) == ("executed", 1)


async def test_a_stream_larger_than_may_be_buffered(serve: Servers) -> None:
    """A keyed client-stream larger than may be buffered is refused before anything runs (4.8, 4.11)."""
    call, runs = await streaming(serve, False, policy=Policy(max_request_bytes=10))
    reply = await call(b"12345", b"678901", key=new_key(), count="2")
    assert (reply.status, reply.mark, runs()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "refused", 0)


async def test_the_order_of_the_table(serve: Servers) -> None:
    """Where several refusals would do, the first of the table is told (2.3)."""
    store = FlakyStore(serve.path)
    nobody: dict[str, Any] = {"policies": {"Do": Policy(required=True)}, "store": store}

    def principal(caller: Caller) -> str:
        return dict(caller.metadata).get("x-user", "")  # type: ignore[return-value]  # text, under this name

    service = await serve({"Do": Counting()}, principal=principal, **nobody)
    store.down.add("claim")
    assert (await service.call("Do", key="")).reason == "KEY_INVALID"
    assert (await service.call("Do")).reason == "KEY_REQUIRED"
    assert (await service.call("Do", key=new_key())).reason == "PRINCIPAL_REQUIRED"
    assert (await service.call("Do", key=new_key(), metadata=[("x-user", "ann")])).reason == "STORE_UNAVAILABLE"


async def test_a_request_that_is_no_message(serve: Servers) -> None:
    """A keyed request that can't be parsed is INTERNAL, with no text of the exception; nothing is claimed (2.3)."""
    service = await serve({"Do": Counting()})
    reply = await service.call("Do", b"\xff\xff\xff", key=new_key())
    assert (reply.status, reply.mark) == (grpc.StatusCode.INTERNAL, "refused")
    assert "corrupt" not in reply.details
    assert await service.records() == []


def test_every_reason_is_tested() -> None:
    """No reason is without its test here."""
    tested = {name.removeprefix("test_").upper() for name in globals() if name.startswith("test_")}
    assert {reason.name for reason in Reason} <= tested


def test_flaky_stores_are_stores(tmp_path: Any) -> None:
    store = FlakyStore(tmp_path / "x.db")
    assert isinstance(store, aio.SQLiteStore)
    assert isinstance(store.for_threads(), SQLiteStore)
