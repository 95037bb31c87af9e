"""Servers on 127.0.0.1 with the interceptor in them, and calls that tell all a client can see."""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
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

from grpc_idempotency import Policy, Record
from grpc_idempotency.aio import IdempotencyInterceptor, SQLiteStore
from grpc_idempotency.store import AsyncStore

from .handlers import SERVICE, Handler, Method, full, generic_handler

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
        server: grpc.aio.Server,
        channel: grpc.aio.Channel,
        *,
        target: str,
        interceptor: IdempotencyInterceptor,
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
        return [flight.followers for flight in self.interceptor._flights._flights.values()] == [count]

    async def records(self) -> Sequence[Record]:
        return await self.store.list()

    async def the_record(self) -> Record:
        """The only record there is."""
        (record,) = await self.store.list()
        return record


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
        store = store or SQLiteStore(self.path)
        named = {full(name): given for name, given in (policies or {}).items()}
        interceptor = IdempotencyInterceptor(
            store, policy=policy or Policy(), methods=named, drain_limit=drain_limit, **options
        )
        server = grpc.aio.server(interceptors=[*outside, interceptor, *inside], options=[("grpc.so_reuseport", 0)])
        if attach:
            interceptor.attach(server)
        server.add_generic_rpc_handlers((generic_handler(self.kind, methods, service),))
        if credentials is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        self._stack.push_async_callback(self._stop, server, None if attach else interceptor)
        target = f"127.0.0.1:{port}"
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(target))
        return Service(server, channel, target=target, interceptor=interceptor, store=store)

    async def client(self, target: str, *, service: str = SERVICE, **options: Any) -> Client:
        """Another channel to a server; options as ``insecure_channel`` takes them."""
        return Client(await self._stack.enter_async_context(grpc.aio.insecure_channel(target, **options)), service)

    @staticmethod
    async def _stop(server: grpc.aio.Server, interceptor: IdempotencyInterceptor | None) -> None:
        await server.stop(None)
        if interceptor is not None:
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
