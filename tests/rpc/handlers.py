"""Handlers that are written once and run as every kind of handler that a server can have.

A handler here is ``async def handler(request, context)``. As kind ``async`` it is served as it is; as kind ``thread`` a
plain ``def`` runs it to its end in an event loop of its own, on the thread that ``grpc.aio`` gave it; as kind ``sync``
the same on a thread of a ``grpc.server``. A context's ``abort`` is awaited in all; where a test blocks a handler, it
does so with a :class:`Gate`, which any loop can wait for.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue

Handler = Callable[[Any, Any], Awaitable[object]]
SERVICE = "test.rpc.Service"

ALL_KINDS = ("async", "thread", "sync")
"""``async def`` on a ``grpc.aio`` server, ``def`` on a thread of it, and ``def`` on a ``grpc.server`` (4.10)."""
EACH_SERVER = ("async", "sync")
"""One kind of handler for each kind of server: enough where the handler's kind can't matter."""


def full(method: str) -> str:
    """The full name of a method of the test service."""
    return f"/{SERVICE}/{method}"


@dataclass(frozen=True, kw_only=True)
class Method:
    """A handler with its types; ``None`` for bytes as they are."""

    run: Handler
    request: type[Message] | None = StringValue
    reply: type[Message] | None = StringValue


class Gate:
    """Something that one side waits for and the other lets happen, in whatever thread or loop they are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = False
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def open(self) -> None:
        with self._lock:
            self._open = True
            waiters, self._waiters = self._waiters, []
        for loop, waiter in waiters:
            loop.call_soon_threadsafe(_wake, waiter)

    @property
    def opened(self) -> bool:
        return self._open

    async def wait(self, timeout: float = 20) -> None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if self._open:
                return
            self._waiters.append((loop, waiter))
        await asyncio.wait_for(waiter, timeout)


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


class Blocking:
    """A handler that says when it began and ends when it is let; counts its runs."""

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
        return StringValue(value=f"{self._answer} {self.runs}")


class Counting:
    """A handler that answers at once; counts its runs."""

    def __init__(self) -> None:
        self.runs = 0
        self._lock = threading.Lock()

    async def __call__(self, request: Any, _context: Any) -> StringValue:
        with self._lock:
            self.runs += 1
            return StringValue(value=f"{getattr(request, 'value', '')} run {self.runs}")


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


def of_kind(kind: str, handler: Handler) -> Callable[[Any, Any], Any]:
    """The handler as a behaviour of this kind."""
    if kind == "async":

        async def in_loop(request: Any, context: Any) -> object:
            return await handler(request, context)

        return in_loop

    def on_thread(request: Any, context: Any) -> object:
        async def whole() -> object:
            return await handler(request, Face(context))

        return asyncio.run(whole())

    return on_thread


def generic_handler(kind: str, methods: Mapping[str, Handler | Method], service: str = SERVICE) -> Any:
    """The service's methods, for ``add_generic_rpc_handlers``."""
    handlers = {}
    for name, given in methods.items():
        method = given if isinstance(given, Method) else Method(run=given)
        handlers[name] = grpc.unary_unary_rpc_method_handler(
            of_kind(kind, method.run),
            request_deserializer=method.request.FromString if method.request else None,
            response_serializer=method.reply.SerializeToString if method.reply else None,
        )
    return grpc.method_handlers_generic_handler(service, handlers)
