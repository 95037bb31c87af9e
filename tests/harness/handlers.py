"""Handlers that are written once and served as every kind of handler that a server can have (4.10).

A handler is ``async def handler(request, context)``, an asynchronous generator where its method answers with a stream;
one that takes a stream gets an asynchronous iterator. As kind ``async`` it is served as it is; as kind ``thread``
(``def`` on ``grpc.aio``) and ``sync`` (``def`` on ``grpc.server``) a plain ``def`` runs it in an event loop of its own,
on the thread that gRPC gave it. ``context.abort`` is awaited in all of them; a test blocks a handler with a ``Gate``.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue

from .replies import text
from .waiting import Gate

SERVICE = "test.Service"

ALL_KINDS = ("async", "thread", "sync")
"""``async def`` on ``grpc.aio``, ``def`` on ``grpc.aio``, and ``def`` on ``grpc.server``."""
EACH_SERVER = ("async", "sync")
"""One kind of handler for each kind of server: enough where the handler's kind can't matter."""

Handler = Callable[[Any, Any], Awaitable[object]]


def full(method: str) -> str:
    """Returns the full name of a method of the test service."""
    return f"/{SERVICE}/{method}"


@dataclass(frozen=True, kw_only=True)
class Method:
    """A handler with its cardinality and types; ``None`` as a type leaves bytes as they are.

    A ``native`` handler is served as it stands, whatever the kind.
    """

    run: Callable[[Any, Any], Any]
    takes_stream: bool = False
    gives_stream: bool = False
    native: bool = False
    request: type[Message] | None = StringValue
    reply: type[Message] | None = StringValue

    @property
    def shape(self) -> str:
        """The cardinality as grpc names it, such as ``unary_stream``."""
        return shape(self.takes_stream, self.gives_stream)


def shape(takes_stream: bool, gives_stream: bool) -> str:
    return "_".join("stream" if streams else "unary" for streams in (takes_stream, gives_stream))


def unary(run: Callable[[Any, Any], Any], **options: Any) -> Method:
    return Method(run=run, **options)


def server_stream(run: Callable[[Any, Any], Any], **options: Any) -> Method:
    return Method(run=run, gives_stream=True, **options)


def client_stream(run: Callable[[Any, Any], Any], **options: Any) -> Method:
    return Method(run=run, takes_stream=True, **options)


def bidirectional(run: Callable[[Any, Any], Any], **options: Any) -> Method:
    return Method(run=run, takes_stream=True, gives_stream=True, **options)


async def whole(incoming: Any) -> list[Any]:
    """Returns the one request of a call, or those of its stream, which it reads to the end.

    A handler that ends its call before would race with a client of ``grpc.aio`` that writes: see
    :func:`~.clients.silence`.
    """
    return [message async for message in incoming] if hasattr(incoming, "__aiter__") else [incoming]


class Blocking:
    """A handler that announces its start and ends when it is let; counts its runs."""

    def __init__(self, answer: str = "done") -> None:
        self.began = Gate()
        self.go = Gate()
        self.ended = Gate()
        self.runs = 0
        self._answer = answer

    async def __call__(self, _request: Any, _context: Any) -> StringValue:
        self.runs += 1
        self.began.open()
        await self.go.wait()
        self.ended.open()
        return text(f"{self._answer} {self.runs}")


class Counting:
    """A handler that answers at once; counts its runs."""

    def __init__(self) -> None:
        self.runs = 0
        self._lock = threading.Lock()

    async def __call__(self, request: Any, _context: Any) -> StringValue:
        with self._lock:
            self.runs += 1
            return text(f"{getattr(request, 'value', '')} run {self.runs}")


class Echo:
    """One method of each cardinality; counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    def methods(self) -> dict[str, Method]:
        return {
            "Unary": unary(self.unary),
            "ServerStream": server_stream(self.server_stream),
            "ClientStream": client_stream(self.client_stream),
            "Bidirectional": bidirectional(self.bidirectional),
        }

    async def unary(self, request: StringValue, _context: Any) -> StringValue:
        self.runs += 1
        return text(f"{request.value} in run {self.runs}")

    async def server_stream(self, request: StringValue, _context: Any) -> AsyncIterator[StringValue]:
        self.runs += 1
        run = self.runs
        for word in request.value.split():
            yield text(f"{word} in run {run}")

    async def client_stream(self, requests: AsyncIterator[StringValue], _context: Any) -> StringValue:
        self.runs += 1
        run = self.runs
        return text(" ".join([request.value async for request in requests]) + f" in run {run}")

    async def bidirectional(self, requests: AsyncIterator[StringValue], _context: Any) -> AsyncIterator[StringValue]:
        self.runs += 1
        async for request in requests:
            yield text(request.value)


class Face:
    """A thread's context as ``async def`` handlers use one."""

    def __init__(self, context: Any) -> None:
        self.live = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self.live, name)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        if trailing_metadata and hasattr(self.live, "_state"):
            # On grpc.server abort takes no trailers: a handler sets them first.
            self.live.set_trailing_metadata(trailing_metadata)
            trailing_metadata = ()
        self.live.abort(code, details, *((trailing_metadata,) if trailing_metadata else ()))

    async def abort_with_status(self, status: Any) -> None:
        self.live.abort_with_status(status)

    async def send_initial_metadata(self, metadata: Any) -> None:
        self.live.send_initial_metadata(metadata)


def generic_handler(kind: str, methods: Mapping[str, Handler | Method], service: str = SERVICE) -> Any:
    """Returns the service's methods, for ``add_generic_rpc_handlers``; a bare handler is a unary method."""
    handlers: dict[str, Any] = {}
    for name, given in methods.items():
        method = given if isinstance(given, Method) else unary(given)
        make: Any = getattr(grpc, f"{method.shape}_rpc_method_handler")
        handlers[name] = make(
            of_kind(kind, method),
            request_deserializer=method.request.FromString if method.request else None,
            response_serializer=method.reply.SerializeToString if method.reply else None,
        )
    return grpc.method_handlers_generic_handler(service, handlers)


def of_kind(kind: str, method: Method) -> Callable[[Any, Any], Any]:
    """Returns the handler as a behaviour of this kind."""
    if method.native:
        return method.run
    if kind == "async":
        return _generator(method.run) if method.gives_stream else _coroutine(method.run)
    return _thread_generator(method) if method.gives_stream else _function(method)


def _coroutine(run: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    async def coroutine(request: Any, context: Any) -> Any:
        return await run(request, context)

    return coroutine


def _generator(run: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    async def generator(request: Any, context: Any) -> AsyncIterator[Any]:
        async with aclosing(run(request, context)) as messages:
            async for message in messages:
                yield message

    return generator


def _function(method: Method) -> Callable[[Any, Any], Any]:
    def function(request: Any, context: Any) -> Any:
        async def whole() -> Any:
            return await method.run(_over(request) if method.takes_stream else request, Face(context))

        return asyncio.run(whole())

    return function


def _thread_generator(method: Method) -> Callable[[Any, Any], Any]:
    def generator(request: Any, context: Any) -> Iterator[Any]:
        messages = method.run(_over(request) if method.takes_stream else request, Face(context))
        loop = asyncio.new_event_loop()
        try:
            while True:
                try:
                    message = loop.run_until_complete(anext(messages))
                except StopAsyncIteration:
                    return
                yield message
        finally:
            loop.run_until_complete(messages.aclose())
            loop.close()

    return generator


async def _over(messages: Iterator[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message
