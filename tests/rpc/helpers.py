"""Servers on 127.0.0.1 with the interceptor in them, and calls that tell all a client can see."""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2, status_pb2

import grpc_idempotency
from grpc_idempotency import Policy, Record, aio
from grpc_idempotency.store import AsyncStore

from .handlers import SERVICE, Face, Handler, Method, full, generic_handler
from .stores import FlakyStore, for_threads

KEY = "idempotency-key"
STATUS = "idempotency-status"
CREATED = "idempotency-created"
PUSH_BACK = "grpc-retry-pushback-ms"
STATUS_DETAILS = "grpc-status-details-bin"

Metadata = Sequence[tuple[str, str | bytes]]

secrets_told: set[str] = set()
"""The keys and bodies of the running test: nothing may log them or send them back in a refusal."""


def new_key() -> str:
    """A key that nobody had."""
    key = f"key-{secrets.token_hex(8)}"
    secrets_told.add(key)
    return key


def text(value: str) -> StringValue:
    return StringValue(value=value)


def ms(milliseconds: float) -> timedelta:
    return timedelta(milliseconds=milliseconds)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """All that a client gets to see of a call."""

    status: grpc.StatusCode
    message: bytes | None
    details: str
    trailers: tuple[tuple[str, str | bytes], ...]
    initial: tuple[tuple[str, str | bytes], ...] = ()

    def trailer(self, name: str) -> str | bytes | None:
        """The one value of a trailer; ``None`` where it did not come."""
        values = [value for key, value in self.trailers if key == name]
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def mark(self) -> str | bytes | None:
        return self.trailer(STATUS)

    @property
    def text(self) -> str:
        assert self.status is grpc.StatusCode.OK, self
        assert self.message is not None
        return StringValue.FromString(self.message).value

    @property
    def plain(self) -> "Reply":
        """What is the handler's: without the trailers that are ours, and without what only the first call gets."""
        theirs = tuple(entry for entry in self.trailers if entry[0] not in (STATUS, CREATED))
        return replace(self, trailers=theirs, initial=())

    @property
    def reason(self) -> str | None:
        """The reason of a refusal; ``None`` where it is none."""
        info = self.detail(error_details_pb2.ErrorInfo)
        return None if info is None else str(info.reason)

    def detail(self, kind: type[Message]) -> Any:
        """The one detail of this type in ``grpc-status-details-bin``; ``None`` where there is none."""
        packed = self.trailer(STATUS_DETAILS)
        if packed is None:
            return None
        assert isinstance(packed, bytes)
        for detail in status_pb2.Status.FromString(packed).details:
            found = kind()
            if detail.Unpack(found):
                return found
        return None


def refused(reply: Reply, reason: str, status: grpc.StatusCode) -> None:
    """Asserts that a call was refused for this reason."""
    assert (reply.reason, reply.status, reply.mark) == (reason, status, "refused"), reply


class Client:
    """A channel to a server, and calls over it."""

    def __init__(self, channel: grpc.aio.Channel, service: str = SERVICE) -> None:
        self.channel = channel
        self._service = service

    def start(
        self,
        method: str,
        request: str | Message | bytes = "",
        *,
        key: str | None = None,
        metadata: Metadata = (),
        timeout: float | None = 20,
    ) -> "grpc.aio.UnaryUnaryCall[bytes, bytes]":
        """Begins a call: for those that will be cancelled."""
        if isinstance(request, str):
            if len(request) > 7:
                secrets_told.add(request)
            request = StringValue(value=request)
        raw = request if isinstance(request, bytes) else request.SerializeToString()
        everything = (*metadata, *(((KEY, key),) if key is not None else ()))
        stub: Any = self.channel.unary_unary(f"/{self._service}/{method}")
        call: grpc.aio.UnaryUnaryCall[bytes, bytes] = stub(raw, timeout=timeout, metadata=everything)
        return call

    async def call(self, method: str, request: str | Message | bytes = "", **options: Any) -> Reply:
        """A call, to its end."""
        return await outcome(self.start(method, request, **options))


async def outcome(call: "grpc.aio.UnaryUnaryCall[bytes, bytes]") -> Reply:
    """What became of a call."""
    message = None
    with suppress(grpc.aio.AioRpcError):
        message = await call
    reply = Reply(
        status=await call.code(),
        message=message,
        details=await call.details() or "",
        trailers=tuple(await call.trailing_metadata()),
        initial=tuple(await call.initial_metadata()),
    )
    if reply.mark == "refused":
        seen = f"{reply.details}{reply.trailers}"
        assert not [secret for secret in secrets_told if secret in seen], seen
    return reply


class Service(Client):
    """A server in this process, and a channel to it."""

    def __init__(
        self,
        server: "grpc.aio.Server | ThreadServer",
        channel: grpc.aio.Channel,
        *,
        target: str,
        interceptor: Any,
        store: AsyncStore,
    ) -> None:
        super().__init__(channel)
        self.server = server
        self.target = target
        self.interceptor = interceptor
        self.store = store

    async def has_detached(self, count: int = 1) -> bool:
        """Whether so many operations have nobody left who waits for them."""
        return len(self.interceptor._flights.detached) == count

    async def is_followed(self, count: int) -> bool:
        """Whether so many calls wait for the one operation that runs."""
        return [flight.followers for flight in list(self.interceptor._flights._flights.values())] == [count]

    async def close_interceptor(self) -> None:
        await _close(self.interceptor)

    async def records(self) -> Sequence[Record]:
        return await self.store.list()

    async def the_record(self) -> Record:
        """The only record there is."""
        (record,) = await self.store.list()
        return record


class ThreadServer:
    """A ``grpc.server``, as tests use one of ``grpc.aio``."""

    def __init__(self, server: grpc.Server) -> None:
        self.threads = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        self.threads.add_generic_rpc_handlers(handlers)

    def add_insecure_port(self, address: str) -> int:
        return self.threads.add_insecure_port(address)

    def add_secure_port(self, address: str, credentials: grpc.ServerCredentials) -> int:
        return self.threads.add_secure_port(address, credentials)

    async def start(self) -> None:
        self.threads.start()

    async def stop(self, grace: float | None) -> None:
        await asyncio.to_thread(self.threads.stop(grace).wait)

    async def wait_for_termination(self) -> None:
        await asyncio.to_thread(self.threads.wait_for_termination)


class OnThreads(grpc.ServerInterceptor):
    """An interceptor of ``grpc.aio`` on a ``grpc.server``: for unary methods, if it awaits only what is inside."""

    def __init__(self, interceptor: grpc.aio.ServerInterceptor) -> None:
        self._interceptor = interceptor

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        async def inner(details: Any) -> Any:
            return _with(continuation(details), lambda behaviour: _awaited(behaviour))

        intercept: Any = self._interceptor.intercept_service
        return _with(_at_once(intercept(inner, handler_call_details)), lambda behaviour: _blocking(behaviour))


def _with(handler: Any, change: Callable[[Any], Any]) -> Any:
    if handler is None or handler.unary_unary is None:
        return handler
    return grpc.unary_unary_rpc_method_handler(
        change(handler.unary_unary), handler.request_deserializer, handler.response_serializer
    )


def _awaited(behaviour: Any) -> Any:
    async def awaited(request: Any, context: Any) -> Any:
        return behaviour(request, getattr(context, "live", context))

    return awaited


def _blocking(behaviour: Any) -> Any:
    def blocking(request: Any, context: Any) -> Any:
        reply = behaviour(request, Face(context))
        return _at_once(reply) if asyncio.iscoroutine(reply) else reply

    return blocking


def _at_once(call: Any) -> Any:
    """The result of a coroutine that never waits."""
    try:
        call.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it has waited")


class Servers:
    """Starts servers of one kind, and stops them all at the end."""

    def __init__(self, kind: str, folder: Path, stack: AsyncExitStack) -> None:
        self.kind = kind
        self.path = folder / "records.db"
        self._stack = stack

    async def __call__(
        self,
        methods: Mapping[str, Handler | Method],
        *,
        policy: Policy | None = None,
        policies: Mapping[str, Policy] | None = None,
        store: AsyncStore | None = None,
        attach: bool = True,
        outside: Sequence[grpc.aio.ServerInterceptor] = (),
        inside: Sequence[grpc.aio.ServerInterceptor] = (),
        credentials: grpc.ServerCredentials | None = None,
        service: str = SERVICE,
        drain_limit: timedelta = timedelta(seconds=5),
        **options: Any,
    ) -> Service:
        """Serves the methods behind the interceptor; ``policies`` go by the methods' short names."""
        store = store or FlakyStore(self.path)
        named = {full(name): given for name, given in (policies or {}).items()}
        options |= {"policy": policy or Policy(), "methods": named, "drain_limit": drain_limit}
        server: grpc.aio.Server | ThreadServer
        interceptor: Any
        make = self._on_threads if self.kind == "sync" else self._on_asyncio
        server, interceptor = make(store, outside, inside, options)
        if attach:
            interceptor.attach(server.threads if isinstance(server, ThreadServer) else server)
        server.add_generic_rpc_handlers((generic_handler(self.kind, methods, service),))
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", credentials)
        if self.kind == "sync":
            self._stack.push_async_callback(store.close)  # the test looks at the records with it
        await server.start()
        self._stack.push_async_callback(self._stop, server, None if attach else interceptor)
        target = f"127.0.0.1:{port}"
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(target))
        return Service(server, channel, target=target, interceptor=interceptor, store=store)

    @staticmethod
    def _on_asyncio(store: AsyncStore, outside: Any, inside: Any, options: Any) -> "tuple[grpc.aio.Server, Any]":
        interceptor = aio.IdempotencyInterceptor(store, **options)
        server = grpc.aio.server(interceptors=[*outside, interceptor, *inside], options=[("grpc.so_reuseport", 0)])
        return server, interceptor

    def _on_threads(
        self, store: AsyncStore, outside: Any, inside: Any, options: Any
    ) -> tuple[ThreadServer, grpc_idempotency.IdempotencyInterceptor]:
        """With room for so many who wait as these tests have: on asyncio there is no limit to them."""
        interceptor = grpc_idempotency.IdempotencyInterceptor(for_threads(store), **{"max_waiters": 256} | options)
        pool = ThreadPoolExecutor(max_workers=256)
        self._stack.callback(pool.shutdown, wait=False)
        server = grpc.server(
            pool,
            interceptors=[*map(OnThreads, outside), interceptor, *map(OnThreads, inside)],
            options=[("grpc.so_reuseport", 0)],
        )
        return ThreadServer(server), interceptor

    async def client(self, target: str, *, service: str = SERVICE, **options: Any) -> Client:
        """Another channel to a server; options as ``insecure_channel`` takes them."""
        return Client(await self._stack.enter_async_context(grpc.aio.insecure_channel(target, **options)), service)

    @staticmethod
    async def _stop(server: "grpc.aio.Server | ThreadServer", interceptor: Any) -> None:
        await server.stop(None)
        if interceptor is not None:
            await _close(interceptor)


async def _close(interceptor: Any) -> None:
    if isinstance(interceptor, grpc_idempotency.IdempotencyInterceptor):
        await asyncio.to_thread(interceptor.close)
    else:
        await interceptor.close()


def service_config(**method: object) -> list[tuple[str, Any]]:
    """Channel options with a service config for all methods."""
    config = {"methodConfig": [{"name": [{}], **method}]}
    return [("grpc.service_config", json.dumps(config)), ("grpc.experimental.enable_hedging", 1)]


async def until(condition: Callable[[], Awaitable[object]], within: float = 15) -> None:
    """Waits for a state that no event tells of, as one in a store."""
    give_up_at = time.monotonic() + within
    while not await condition():
        assert time.monotonic() < give_up_at, "it did not come to that"
        await asyncio.sleep(0.01)
