"""Handlers of all four cardinalities, written once and run as every kind of handler on every kind of server (4.10).

A handler here is ``async def``, an asynchronous generator where its method answers with a stream; one that takes a
stream gets an asynchronous iterator. As kind ``async`` it is served as it is; as kind ``thread`` (``def`` on an aio
server) and ``sync`` (a ``grpc.server``) a plain ``def`` runs it in an event loop of its own, on the thread that gRPC
gave it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from ..rpc.handlers import Face

SERVICE = "test.echo.Service"
KINDS = ("async", "thread", "sync")


def full(method: str) -> str:
    """The full name of a method of the echo service."""
    return f"/{SERVICE}/{method}"


def text(value: str) -> StringValue:
    return StringValue(value=value)


@dataclass(frozen=True, kw_only=True)
class Rpc:
    """A handler and its cardinality; ``native`` is one that is served as it stands."""

    run: Callable[[Any, Any], Any]
    takes_stream: bool = False
    gives_stream: bool = False
    native: bool = False


def unary(run: Callable[[Any, Any], Any], *, native: bool = False) -> Rpc:
    return Rpc(run=run, native=native)


def server_stream(run: Callable[[Any, Any], Any], *, native: bool = False) -> Rpc:
    return Rpc(run=run, gives_stream=True, native=native)


def client_stream(run: Callable[[Any, Any], Any], *, native: bool = False) -> Rpc:
    return Rpc(run=run, takes_stream=True, native=native)


def bidirectional(run: Callable[[Any, Any], Any], *, native: bool = False) -> Rpc:
    return Rpc(run=run, takes_stream=True, gives_stream=True, native=native)


class Echo:
    """One method of each cardinality; counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    def methods(self) -> dict[str, Rpc]:
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


def generic_handler(kind: str, methods: Mapping[str, Rpc], service: str = SERVICE) -> Any:
    """The service's methods, for ``add_generic_rpc_handlers``."""
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    handlers: dict[str, Any] = {
        name: make[rpc.takes_stream, rpc.gives_stream](
            of_kind(kind, rpc), StringValue.FromString, StringValue.SerializeToString
        )
        for name, rpc in methods.items()
    }
    return grpc.method_handlers_generic_handler(service, handlers)


def of_kind(kind: str, rpc: Rpc) -> Callable[[Any, Any], Any]:
    """The handler as a behaviour of this kind."""
    if rpc.native:
        return rpc.run
    if kind == "async":
        return _generator(rpc.run) if rpc.gives_stream else _coroutine(rpc.run)
    return _thread_generator(rpc) if rpc.gives_stream else _function(rpc)


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


def _function(rpc: Rpc) -> Callable[[Any, Any], Any]:
    def function(request: Any, context: Any) -> Any:
        async def whole() -> Any:
            return await rpc.run(_over(request) if rpc.takes_stream else request, Face(context))

        return asyncio.run(whole())

    return function


def _thread_generator(rpc: Rpc) -> Callable[[Any, Any], Any]:
    def generator(request: Any, context: Any) -> Iterator[Any]:
        messages = rpc.run(_over(request) if rpc.takes_stream else request, Face(context))
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
