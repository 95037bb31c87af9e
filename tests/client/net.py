"""Servers and clients of both kinds, with the library's interceptors in them; a test is written once for both.

Calls are awaited: those of a ``grpc`` channel are made on another thread, in the context of whoever awaits them.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue

import grpc_idempotency
from grpc_idempotency import ClientInterceptor, MemoryStore, Policy, aio
from grpc_idempotency.retrying import AsyncRetrying, Retrying

from ..harness import servers
from ..harness.clients import silence
from ..harness.handlers import SERVICE, Handler, bidirectional, client_stream, generic_handler, server_stream, unary
from ..harness.replies import KEY, Reply, text
from ..harness.waiting import Gate


@dataclass
class Seen:
    """The calls that reached a server, each attempt of them: method and metadata."""

    calls: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    _gates: dict[int, Gate] = field(default_factory=dict)

    def note(self, details: grpc.HandlerCallDetails) -> None:
        self.calls.append((str(details.method).rsplit("/", 1)[1], dict(details.invocation_metadata or ())))  # type: ignore[arg-type]  # tuples of text
        self.gate(len(self.calls)).open()

    def gate(self, number: int) -> Gate:
        """What opens when so many calls have come."""
        return self._gates.setdefault(number, Gate())

    def of(self, method: str | None = None) -> list[str | None]:
        """The keys of the calls, or of one method's."""
        return [metadata.get(KEY) for name, metadata in self.calls if method in (None, name)]


class _Noting(grpc.ServerInterceptor):
    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        self._seen.note(handler_call_details)
        return continuation(handler_call_details)


class _AioNoting(grpc.aio.ServerInterceptor):
    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        self._seen.note(handler_call_details)
        return await continuation(handler_call_details)


@dataclass(frozen=True, kw_only=True)
class Server:
    target: str
    seen: Seen


class Client:
    """A channel with the client's interceptors, unless it is ``plain``."""

    def __init__(self, kind: str, channel: Any, service: str) -> None:
        self._kind = kind
        self._channel = channel
        self._service = service

    def stub(self, method: str, shape: str = "unary_unary", reply: type[Message] = StringValue) -> Any:
        """A method as generated code has it."""
        return getattr(self._channel, shape)(
            f"/{self._service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply.FromString,
        )

    async def call(
        self,
        method: str,
        requests: Any = "",
        *,
        shape: str = "unary_unary",
        reply: type[Message] = StringValue,
        **more: Any,
    ) -> Reply:
        """Makes a call, and returns its reply; raises where it fails."""
        requests = text(requests) if isinstance(requests, str) else requests
        stub = self.stub(method, shape, reply)
        options = {"timeout": 20, **more}
        if self._kind == "sync":
            return await asyncio.to_thread(_sync_call, stub, requests, shape, options)
        call = stub(requests, **options)
        messages = [message async for message in call] if shape.endswith("stream") else [await call]
        return _reply(messages, await call.trailing_metadata(), await aio.status_of(call))

    async def refused(self, method: str, *, shape: str, details: str) -> None:
        """Makes a call with a stream of requests that is refused before they are read, with these words in its details.

        It sends no request: see :func:`~..harness.clients.silence`.
        """
        over: Any = threading.Event() if self._kind == "sync" else asyncio.Event()
        requests = _blocking_silence(over) if self._kind == "sync" else silence(over)
        with pytest.raises(grpc.RpcError, match=details):
            await self.call(method, requests, shape=shape)
        over.set()

    async def retry(self, method: str, requests: Any = "", *, metadata: Any = None, **options: Any) -> str:
        """A unary call through the retry helper."""
        requests = text(requests) if isinstance(requests, str) else requests
        reply = await self.retried(self.stub(method), requests, metadata=metadata, **options)
        return str(reply.value)

    async def retried(self, fn: Callable[..., Any], *args: Any, metadata: Any = None, **options: Any) -> Any:
        more = {"metadata": metadata} if metadata is not None else {}
        if self._kind == "sync":
            return await asyncio.to_thread(Retrying(**options).call, fn, *args, **more)
        return await AsyncRetrying(**options).call(fn, *args, **more)


def _blocking_silence(over: threading.Event) -> Iterator[Any]:
    over.wait(30)
    yield from ()


def _sync_call(stub: Any, requests: Any, shape: str, options: dict[str, Any]) -> Reply:
    if shape.endswith("stream"):
        call = stub(requests, **options)
        messages = list(call)
    else:
        message, call = stub.with_call(requests, **options)
        messages = [message]
    return _reply(messages, call.trailing_metadata(), grpc_idempotency.status_of(call))


def _reply(messages: list[Any], trailers: Any, mark: str | None) -> Reply:
    reply = Reply(
        status=grpc.StatusCode.OK,
        messages=tuple(message.SerializeToString() for message in messages),
        details="",
        trailers=tuple((name, value) for name, value in trailers or ()),
    )
    assert reply.mark == mark
    return reply


class Net:
    """Makes servers and clients of one kind, and closes them."""

    def __init__(self, kind: str, stack: AsyncExitStack) -> None:
        self.kind = kind
        self._stack = stack

    async def serve(
        self,
        methods: Mapping[str, Handler],
        *,
        service: str = SERVICE,
        request: type[Message] = StringValue,
        reply: type[Message] = StringValue,
        policy: Policy = Policy(),  # noqa: B008  # frozen
        protected: bool = True,
    ) -> Server:
        """Serves these unary methods, and Many, Join and Chat: one for each other cardinality."""
        seen, interceptor = Seen(), None
        interceptors: list[Any] = [(_Noting if self.kind == "sync" else _AioNoting)(seen)]
        if protected:
            store = MemoryStore() if self.kind == "sync" else aio.MemoryStore()
            interceptor = servers.interceptor_of(self.kind, store, policy=policy)
            interceptors.append(interceptor)
        server = servers.Server(self.kind, interceptors)
        if interceptor is not None:
            interceptor.attach(server.real)
        all_methods = {name: unary(run, request=request, reply=reply) for name, run in methods.items()}
        all_methods |= {"Many": server_stream(_many), "Join": client_stream(_join), "Chat": bidirectional(_chat)}
        server.add(generic_handler(self.kind, all_methods, service))
        target = await server.start()
        self._stack.push_async_callback(server.stop)
        return Server(target=target, seen=seen)

    async def client(
        self, target: str, *, service: str = SERVICE, plain: bool = False, config: Any = None, **ours: Any
    ) -> Client:
        options = [("grpc.service_config", json.dumps(config))] if config is not None else []
        if self.kind == "async":
            interceptors = [] if plain else aio.client_interceptors(**ours)
            channel: Any = grpc.aio.insecure_channel(target, options, interceptors=interceptors)
            return Client(self.kind, await self._stack.enter_async_context(channel), service)
        bare = self._stack.enter_context(grpc.insecure_channel(target, options))
        return Client(self.kind, bare if plain else grpc.intercept_channel(bare, ClientInterceptor(**ours)), service)


async def _many(request: StringValue, _context: Any) -> AsyncIterator[StringValue]:
    for number in range(3):
        yield text(f"{request.value}{number}")


async def _join(requests: AsyncIterator[StringValue], _context: Any) -> StringValue:
    return text("+".join([request.value async for request in requests]))


async def _chat(requests: AsyncIterator[StringValue], _context: Any) -> AsyncIterator[StringValue]:
    async for request in requests:
        yield text(f"re {request.value}")
