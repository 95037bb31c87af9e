"""Servers and clients of both kinds, with the library's interceptors in them; a test is written once for both.

Handlers are ``async def``, as in tests/rpc; on a ``grpc.server`` each runs in a loop of its own on its call's thread.
Calls are awaited: those of a ``grpc`` channel are made on another thread, in the context of whoever awaits them.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue

import grpc_idempotency
from grpc_idempotency import ClientInterceptor, Policy, aio
from grpc_idempotency.retrying import AsyncRetrying, Retrying

from ..harness.handlers import SERVICE, Handler, of_kind, unary
from ..harness.waiting import Gate

KEY, COUNT = "idempotency-key", "idempotency-message-count"


def text(value: str) -> StringValue:
    return StringValue(value=value)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back: the texts of the messages, and how the call was answered."""

    texts: list[str]
    status: str | None


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
        """A call to its end."""
        requests = text(requests) if isinstance(requests, str) else requests
        stub = self.stub(method, shape, reply)
        options = {"timeout": 20, **more}
        if self._kind == "sync":
            return await asyncio.to_thread(_sync_call, stub, requests, shape, options)
        call = stub(requests, **options)
        messages = [message async for message in call] if shape.endswith("stream") else [await call]
        return Reply(texts=_texts(messages), status=await aio.status_of(call))

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


def _sync_call(stub: Any, requests: Any, shape: str, options: dict[str, Any]) -> Reply:
    if shape.endswith("stream"):
        call = stub(requests, **options)
        messages = list(call)
    else:
        message, call = stub.with_call(requests, **options)
        messages = [message]
    return Reply(texts=_texts(messages), status=grpc_idempotency.status_of(call))


def _texts(messages: list[Any]) -> list[str]:
    return [message.value if isinstance(message, StringValue) else str(message) for message in messages]


class Net:
    """Makes servers and clients of one kind, and closes them."""

    def __init__(self, kind: str, folder: Path, stack: AsyncExitStack) -> None:
        self.kind = kind
        self._folder = folder
        self._stack = stack
        self._servers = 0

    async def serve(
        self,
        handlers: Mapping[str, Handler],
        *,
        service: str = SERVICE,
        request: type[Message] = StringValue,
        reply: type[Message] = StringValue,
        policy: Policy = Policy(),  # noqa: B008  # frozen
        protected: bool = True,
    ) -> Server:
        """Serves these unary handlers, and Many, Join and Chat: one for each other cardinality."""
        made: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(
                of_kind("async" if self.kind == "aio" else "thread", unary(handler)),
                request.FromString,
                lambda message: message.SerializeToString(),
            )
            for name, handler in handlers.items()
        }
        made |= self._streams()
        self._servers += 1
        path, seen = self._folder / f"server{self._servers}.db", Seen()
        generic = grpc.method_handlers_generic_handler(service, made)
        return await (self._serve_aio if self.kind == "aio" else self._serve_sync)(
            generic, path, seen, policy, protected
        )

    async def _serve_aio(self, generic: Any, path: Path, seen: Seen, policy: Policy, protected: bool) -> Server:
        ours = aio.IdempotencyInterceptor(aio.SQLiteStore(path), policy=policy)
        server = grpc.aio.server(interceptors=[_AioNoting(seen), *([ours] if protected else [])])
        ours.attach(server)
        server.add_generic_rpc_handlers((generic,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._stack.push_async_callback(server.stop, None)
        return Server(target=f"127.0.0.1:{port}", seen=seen)

    async def _serve_sync(self, generic: Any, path: Path, seen: Seen, policy: Policy, protected: bool) -> Server:
        ours = grpc_idempotency.IdempotencyInterceptor(grpc_idempotency.SQLiteStore(path), policy=policy)
        pool = ThreadPoolExecutor(8)
        server = grpc.server(pool, interceptors=[_Noting(seen), *([ours] if protected else [])])
        ours.attach(server)
        server.add_generic_rpc_handlers((generic,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self._stack.callback(pool.shutdown)
        self._stack.push_async_callback(asyncio.to_thread, lambda: server.stop(None).wait())
        return Server(target=f"127.0.0.1:{port}", seen=seen)

    def _streams(self) -> dict[str, Any]:
        many, join, chat = (_many, _join, _chat) if self.kind == "aio" else (_sync_many, _sync_join, _sync_chat)
        types = (StringValue.FromString, StringValue.SerializeToString)
        return {
            "Many": grpc.unary_stream_rpc_method_handler(many, *types),
            "Join": grpc.stream_unary_rpc_method_handler(join, *types),
            "Chat": grpc.stream_stream_rpc_method_handler(chat, *types),
        }

    async def client(
        self, target: str, *, service: str = SERVICE, plain: bool = False, config: Any = None, **ours: Any
    ) -> Client:
        options = [("grpc.service_config", json.dumps(config))] if config is not None else []
        if self.kind == "aio":
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


def _sync_many(request: StringValue, _context: Any) -> Iterator[StringValue]:
    return (text(f"{request.value}{number}") for number in range(3))


def _sync_join(requests: Iterator[StringValue], _context: Any) -> StringValue:
    return text("+".join(request.value for request in requests))


def _sync_chat(requests: Iterator[StringValue], _context: Any) -> Iterator[StringValue]:
    return (text(f"re {request.value}") for request in requests)
