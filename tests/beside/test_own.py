"""Interceptors that embedders write: who authenticates, who sets context variables, who looks at each call (4.10)."""

import contextvars
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Caller

from ..harness.handlers import (
    ALL_KINDS,
    Echo,
    Method,
    bidirectional,
    client_stream,
    generic_handler,
    server_stream,
    unary,
    whole,
)
from ..harness.replies import new_key, text
from ..harness.servers import Servers

REQUESTS = {"Unary": ["a"], "ServerStream": ["a"], "ClientStream": ["a"], "Bidirectional": ["a"]}
KEYED = ("Unary", "ServerStream", "ClientStream")
TOKENS = {"secret-of-ann": "ann", "secret-of-bob": "bob"}
user: contextvars.ContextVar[str] = contextvars.ContextVar("user")

WAYS = [(method, keyed) for method in REQUESTS for keyed in (False, True) if method in KEYED or not keyed]

keyed_methods = pytest.mark.parametrize("method", KEYED)


def around(kind: str, intercept: Callable[[Callable[[], Any], Any], Any]) -> Any:
    """An interceptor: ``intercept(go_on, details)`` answers with a handler, ``go_on()`` with the next one's."""

    class Awaiting(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
            answer = intercept(lambda: continuation(handler_call_details), handler_call_details)
            return await answer if hasattr(answer, "__await__") else answer

    class Blocking(grpc.ServerInterceptor):
        def intercept_service(self, continuation: Any, handler_call_details: grpc.HandlerCallDetails) -> Any:
            return intercept(lambda: continuation(handler_call_details), handler_call_details)

    return Blocking() if kind == "sync" else Awaiting()


def authenticate(kind: str) -> Any:
    """Refuses a call without a good token; tells the others' user in a context variable."""

    def refuse(_request: Any, context: Any) -> None:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "Send a token.")

    async def refuse_awaiting(_request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "Send a token.")

    def intercept(go_on: Callable[[], Any], details: grpc.HandlerCallDetails) -> Any:
        name = TOKENS.get(str(dict(details.invocation_metadata or ()).get("x-token")))
        if name is None:
            return grpc.unary_unary_rpc_method_handler(refuse if kind == "sync" else refuse_awaiting)
        user.set(name)
        return go_on()

    return around(kind, intercept)


def token(name: str) -> list[tuple[str, str | bytes]]:
    return [("x-token", f"secret-of-{name}")]


class Telling:
    """Handlers that answer with the user's name."""

    def methods(self) -> dict[str, Method]:
        return {
            "Unary": unary(self.unary),
            "ServerStream": server_stream(self.server_stream),
            "ClientStream": client_stream(self.unary),
            "Bidirectional": bidirectional(self.server_stream),
        }

    async def unary(self, incoming: Any, _context: Any) -> StringValue:
        await whole(incoming)
        return text(f"for {user.get()}")

    async def server_stream(self, incoming: Any, _context: Any) -> AsyncIterator[StringValue]:
        await whole(incoming)
        yield text(f"for {user.get()}")
        yield text(f"still for {user.get()}")


@keyed_methods
async def test_a_replay_is_authorised(serve: Servers, kind: str, method: str) -> None:
    """An interceptor outside that authenticates is asked for each call: without a valid token no replay (1, 3.1)."""
    service = await serve(Telling().methods(), outside=[authenticate(kind)])
    key = new_key()
    first = await service.call(method, *REQUESTS[method], key=key, metadata=token("ann"))
    assert first.mark == "executed"
    for bad in ([], [("x-token", "guessed")]):
        reply = await service.call(method, *REQUESTS[method], key=key, metadata=bad)
        assert (reply.status, reply.details, reply.mark) == (grpc.StatusCode.UNAUTHENTICATED, "Send a token.", None)
        assert reply.messages == ()
    again = await service.call(method, *REQUESTS[method], key=key, metadata=token("ann"))
    assert (again.plain, again.mark) == (first.plain, "replayed")


@keyed_methods
async def test_a_principal_that_was_verified_outside(serve: Servers, kind: str, method: str) -> None:
    """The principal function sees the context variables that an interceptor outside has set (3.1, 3.3)."""

    def principal(_caller: Caller) -> str | None:
        return user.get(None)

    service = await serve(Telling().methods(), outside=[authenticate(kind)], principal=principal)
    key = new_key()
    for mark in ("executed", "replayed"):
        for name in ("ann", "bob"):
            reply = await service.call(method, *REQUESTS[method], key=key, metadata=token(name))
            assert (reply.mark, reply.texts[0]) == (mark, f"for {name}")


# grpc.aio itself shows no context variables to a ``def`` handler, so that without a key such a one sees none.
@pytest.mark.parametrize(
    ("kind", "method", "keyed"),
    [(kind, *way) for kind in ALL_KINDS for way in WAYS if kind != "thread" or way[1]],
)
async def test_context_variables(serve: Servers, method: str, keyed: bool) -> None:
    """Handlers see the context variables that interceptors outside have set, with a key and without (2.4, 4.10)."""
    service = await serve(Telling().methods(), outside=[authenticate(serve.kind)])
    for name in ("ann", "bob", "ann"):
        key = new_key() if keyed else None
        reply = await service.call(method, *REQUESTS[method], key=key, metadata=token(name))
        assert reply.texts[0] == f"for {name}"
        assert reply.texts[1:] in ([], [f"still for {name}"])


@pytest.mark.parametrize(("method", "keyed"), WAYS)
async def test_a_handler_for_each_call(serve: Servers, kind: str, method: str, keyed: bool) -> None:
    """An interceptor inside that builds its handler from a call's details is asked for every call (4.10)."""
    echo = Echo().methods()

    def intercept(_go_on: Callable[[], Any], details: grpc.HandlerCallDetails) -> Any:
        tenant = dict(details.invocation_metadata or ()).get("x-tenant")

        async def one(incoming: Any, _context: Any) -> StringValue:
            await whole(incoming)
            return text(f"for {tenant!s}")

        async def many(incoming: Any, _context: Any) -> AsyncIterator[StringValue]:
            await whole(incoming)
            yield text(f"for {tenant!s}")

        like = echo[method]
        rpc = Method(
            run=many if like.gives_stream else one, takes_stream=like.takes_stream, gives_stream=like.gives_stream
        )
        return generic_handler(kind, {method: rpc}).service(details)

    service = await serve(echo, inside=[around(kind, intercept)])
    for tenant in ("ann", "bob", "cid"):
        key = new_key() if keyed else None
        reply = await service.call(method, *REQUESTS[method], key=key, metadata=[("x-tenant", tenant)])
        assert reply.texts == [f"for {tenant}"]


async def test_a_method_that_is_not_there(serve: Servers, kind: str) -> None:
    """Where an interceptor inside finds no handler, gRPC answers as ever (2.4)."""
    service = await serve(Echo().methods(), inside=[around(kind, lambda _go_on, _details: None)])
    for key in (None, new_key()):
        reply = await service.call("Unary", "a", key=key)
        assert (reply.status, reply.mark) == (grpc.StatusCode.UNIMPLEMENTED, None)
