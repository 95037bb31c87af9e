"""Interceptors that others wrote, outside and inside of ours (4.10)."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from opentelemetry import trace

from ..harness.handlers import Echo, Method, client_stream, server_stream, unary, whole
from ..harness.replies import new_key, text
from ..harness.servers import Servers, Service
from ..harness.waiting import until
from .packages import SERVED_BY, Beside, make

REQUESTS = {"Unary": ["a b"], "ServerStream": ["a b"], "ClientStream": ["a", "b"], "Bidirectional": ["a", "b"]}
KEYED = ("Unary", "ServerStream", "ClientStream")

combinations = pytest.mark.parametrize(
    ("package", "kind"), [(package, kind) for package, kinds in SERVED_BY.items() for kind in kinds]
)
both_places = pytest.mark.parametrize("place", ["outside", "inside"])


async def recorded(beside: Beside, codes: list[str]) -> None:
    """Asserts that these calls were recorded, which may be so only after their clients have heard."""

    async def enough() -> bool:
        return len(beside.codes()) >= len(codes)

    await until(enough)
    assert beside.codes() == codes


async def served(serve: Servers, beside: Beside, place: str, methods: dict[str, Method]) -> Service:
    outside, inside = ([beside.interceptor], []) if place == "outside" else ([], [beside.interceptor])
    return await serve(methods, outside=outside, inside=inside)


@combinations
@both_places
@pytest.mark.parametrize("method", REQUESTS)
async def test_calls_without_a_key(serve: Servers, kind: str, package: str, place: str, method: str) -> None:
    """Beside another interceptor a call without a key is answered as ever, and recorded once (2.4, 4.10)."""
    beside = make(package, kind)
    service = await served(serve, beside, place, Echo().methods())
    reply = await service.call(method, *REQUESTS[method])
    assert (reply.status, reply.mark) == (grpc.StatusCode.OK, None), reply
    assert reply.texts
    assert set(beside.seen) <= {StringValue}
    if package != "prometheus" or method in ("Unary", "ClientStream"):  # it does not record the end of a stream
        await recorded(beside, ["OK"])


@combinations
@both_places
@pytest.mark.parametrize("method", KEYED)
async def test_calls_with_a_key(serve: Servers, kind: str, package: str, place: str, method: str) -> None:
    """Outside, each call is recorded, and messages are bytes; inside, each execution, and messages are such (4.10)."""
    echo, beside = Echo(), make(package, kind)
    service = await served(serve, beside, place, echo.methods())
    key = new_key()
    first, second, third = [await service.call(method, *REQUESTS[method], key=key) for _ in range(3)]
    assert [reply.mark for reply in (first, second, third)] == ["executed", "replayed", "replayed"]
    assert first.plain == second.plain == third.plain
    assert (first.status, echo.runs) == (grpc.StatusCode.OK, 1)
    assert set(beside.seen) <= {bytes if place == "outside" else StringValue}
    if package != "prometheus" or method in ("Unary", "ClientStream"):
        await recorded(beside, ["OK"] * (3 if place == "outside" else 1))


class Failing:
    """Handlers that abort, with details and trailers; the one that streams, after a message."""

    def methods(self) -> dict[str, Method]:
        return {
            "Unary": unary(self.unary),
            "ServerStream": server_stream(self.server_stream),
            "ClientStream": client_stream(self.unary),
        }

    async def unary(self, incoming: Any, context: Any) -> StringValue:
        await whole(incoming)
        context.set_trailing_metadata((("x-why-bin", b"\x00"),))
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
        raise AssertionError

    async def server_stream(self, _request: Any, context: Any) -> AsyncIterator[StringValue]:
        yield text("one")
        context.set_trailing_metadata((("x-why-bin", b"\x00"),))
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")


@combinations
@both_places
@pytest.mark.parametrize("method", KEYED)
async def test_failures(serve: Servers, kind: str, package: str, place: str, method: str) -> None:
    """A failure, also one that is replayed, is recorded with its status by who stands beside (4.7, 4.10)."""
    beside = make(package, kind)
    service = await served(serve, beside, place, Failing().methods())
    key = new_key()
    unkeyed, first, second = [await service.call(method, *REQUESTS[method], key=k) for k in (None, key, key)]
    assert (first.status, first.details) == (grpc.StatusCode.NOT_FOUND, "no such thing")
    assert (first.plain, first.mark, second.mark) == (second.plain, "executed", "replayed")
    assert unkeyed.plain == first.plain
    if package != "prometheus" or method in ("Unary", "ClientStream"):
        await recorded(beside, ["NOT_FOUND"] * (3 if place == "outside" else 2))


@combinations
@both_places
async def test_exceptions(serve: Servers, kind: str, package: str, place: str) -> None:
    """A handler's exception is answered beside others as without them; its text goes to nobody's client (4.7)."""

    async def broken(_request: Any, _context: Any) -> StringValue:
        raise LookupError("password=hunter2")

    service = await served(serve, make(package, kind), place, {"Unary": unary(broken)})
    replies = [await service.call("Unary", "a", key=key) for key in (None, *[new_key()] * 2)]
    for reply in replies:
        assert (reply.status, reply.details) == (grpc.StatusCode.UNKNOWN, "internal error")
    assert [reply.mark for reply in replies] == [None, "executed", "replayed"]


@combinations
@both_places
async def test_refusals(serve: Servers, kind: str, package: str, place: str) -> None:
    """A refusal passes those outside unchanged, and those inside hear nothing of it (2.3, 4.10)."""
    beside = make(package, kind)
    service = await served(serve, beside, place, Echo().methods())
    reply = await service.call("Unary", "a", metadata=[("idempotency-key", "")])
    assert (reply.reason, reply.status) == ("KEY_INVALID", grpc.StatusCode.INVALID_ARGUMENT)
    await recorded(beside, ["INVALID_ARGUMENT"] if place == "outside" else [])


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_all_at_once(serve: Servers, kind: str) -> None:
    """Any number of them, on both sides at once, each keeps its promise (4.10)."""
    packages = [package for package, kinds in SERVED_BY.items() if kind in kinds]
    outside, inside = [[make(package, kind) for package in packages] for _ in range(2)]
    service = await serve(
        Echo().methods(), outside=[b.interceptor for b in outside], inside=[b.interceptor for b in inside]
    )
    for method in KEYED:
        key = new_key()
        first, second = [await service.call(method, *REQUESTS[method], key=key) for _ in range(2)]
        assert (first.mark, second.mark, first.plain) == ("executed", "replayed", second.plain)
    for beside, calls in ((outside[0], 6), (inside[0], 3)):
        await recorded(beside, ["OK"] * calls)


@pytest.mark.parametrize("method", KEYED)
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_the_handlers_span(serve: Servers, kind: str, method: str) -> None:
    """A handler runs in the span of the call that is executed, wherever its thread or task comes from (4.10)."""
    beside, seen = make("opentelemetry", kind), list[int]()

    async def one(_request: Any, _context: Any) -> StringValue:
        seen.append(trace.get_current_span().get_span_context().span_id)
        return text("one")

    async def many(request: Any, context: Any) -> AsyncIterator[StringValue]:
        yield await one(request, context)

    methods = {"Unary": unary(one), "ServerStream": server_stream(many), "ClientStream": client_stream(one)}
    service = await served(serve, beside, "outside", methods)
    key = new_key()
    for _ in range(2):
        await service.call(method, "a", key=key)
    await recorded(beside, ["OK"] * 2)
    executed, _replayed = beside.spans()
    assert seen == [executed]
