"""Servers of both kinds with the interceptor in them, and calls of all four cardinalities to them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import IdempotencyInterceptor, Policy, Record, SQLiteStore, aio

from ..rpc.helpers import KEY, Metadata, new_key, secrets_told
from ..rpc.helpers import Reply as UnaryReply
from .handlers import SERVICE, Rpc, full, generic_handler, text

COUNT = "idempotency-message-count"
LIMIT = 10.0
"""Seconds within which every call here is answered, and long before its deadline: nobody may hang."""
DEADLINE = 60.0


@dataclass(frozen=True, kw_only=True)
class Reply(UnaryReply):
    """All that a client gets to see of a call, whose answer may be a stream."""

    messages: tuple[bytes, ...] = ()

    @property
    def texts(self) -> list[str]:
        return [StringValue.FromString(message).value for message in self.messages]

    @property
    def plain(self) -> "Reply":
        plain = super().plain
        assert isinstance(plain, Reply)
        return plain


class Call:
    """A call that was begun; its messages are there one by one, or all with its end."""

    def __init__(self, call: Any, *, gives_stream: bool) -> None:
        self.call = call
        self._gives_stream = gives_stream
        self._messages: list[bytes] = []

    async def read(self) -> str:
        """The text of the next message of the stream."""
        message = await asyncio.wait_for(self.call.read(), LIMIT)
        assert isinstance(message, bytes), f"the stream is at its end: {await self.call.code()}"
        self._messages.append(message)
        return StringValue.FromString(message).value

    def cancel(self) -> None:
        self.call.cancel()

    async def end(self, within: float = LIMIT) -> Reply:
        """What became of it."""
        return await asyncio.wait_for(self._end(), within)

    async def _end(self) -> Reply:
        with suppress(grpc.aio.AioRpcError):
            if self._gives_stream:
                while (message := await self.call.read()) is not grpc.aio.EOF:
                    self._messages.append(message)
            else:
                self._messages.append(await self.call)
        reply = Reply(
            status=await self.call.code(),
            message=self._messages[0] if len(self._messages) == 1 else None,
            messages=tuple(self._messages),
            details=await self.call.details() or "",
            trailers=tuple(await self.call.trailing_metadata() or ()),
            initial=tuple(await self.call.initial_metadata() or ()),
        )
        if reply.mark == "refused":
            seen = f"{reply.details}{reply.trailers}"
            assert not [secret for secret in secrets_told if secret in seen], seen
        return reply


class Client:
    """A channel to a server, and calls over it; a method's cardinality is the server's to tell."""

    def __init__(self, channel: grpc.aio.Channel, methods: Mapping[str, Rpc], service: str = SERVICE) -> None:
        self.channel = channel
        self.methods = methods
        self._service = service

    def start(
        self,
        method: str,
        *requests: str,
        key: str | None = None,
        count: int | str | None = -1,
        metadata: Metadata = (),
        timeout: float | None = DEADLINE,
    ) -> Call:
        """Begins a call. ``count`` is what a client-stream announces; -1: as many as there are."""
        rpc = self.methods[method]
        everything = [*metadata]
        if key is not None:
            everything.append((KEY, key))
            if rpc.takes_stream and count is not None:
                everything.append((COUNT, str(len(requests) if count == -1 else count)))
        raws = [text(request).SerializeToString() for request in requests or ("",)]
        make = {
            (False, False): self.channel.unary_unary,
            (False, True): self.channel.unary_stream,
            (True, False): self.channel.stream_unary,
            (True, True): self.channel.stream_stream,
        }[rpc.takes_stream, rpc.gives_stream]
        stub: Any = make(f"/{self._service}/{method}")
        sent = _stream([text(request).SerializeToString() for request in requests]) if rpc.takes_stream else raws[0]
        call = stub(sent, timeout=timeout, metadata=tuple(everything))
        return Call(call, gives_stream=rpc.gives_stream)

    async def call(self, method: str, *requests: str, within: float = LIMIT, **options: Any) -> Reply:
        """A call, to its end."""
        return await self.start(method, *requests, **options).end(within)


async def _stream(messages: Sequence[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


class Service(Client):
    """A server in this process, and a channel to it."""

    def __init__(
        self, kind: str, channel: grpc.aio.Channel, methods: Mapping[str, Rpc], *, target: str, interceptor: Any
    ) -> None:
        super().__init__(channel, methods)
        self.kind = kind
        self.target = target
        self.interceptor = interceptor
        self.store = interceptor._store
        self.stop: Callable[[], Awaitable[object]] = _nothing

    async def blocking(self, method: str, *requests: str, metadata: Metadata = ()) -> Reply:
        """A call that takes a stream, by gRPC's client for threads.

        Its asyncio client tells INTERNAL, now and then, of a call that was answered before all its messages were sent.
        """
        return await asyncio.wait_for(asyncio.to_thread(self._block, method, requests, metadata), LIMIT)

    def _block(self, method: str, requests: Sequence[str], metadata: Metadata) -> Reply:
        messages = [text(request).SerializeToString() for request in requests]
        with grpc.insecure_channel(self.target) as channel:
            stub: Any = channel.stream_stream(full(method))  # which can be used for every kind that takes a stream
            call = stub(iter(messages), timeout=DEADLINE, metadata=tuple(metadata))
            replies: list[bytes] = []
            with suppress(grpc.RpcError):
                replies += call
            return Reply(
                status=call.code(),
                message=replies[0] if len(replies) == 1 else None,
                messages=tuple(replies),
                details=call.details(),
                trailers=tuple(call.trailing_metadata()),
            )

    async def records(self) -> Sequence[Record]:
        records: Sequence[Record] = await of_store(self.kind, self.store.list)
        return records

    async def the_record(self) -> Record:
        """The only record there is."""
        (record,) = await self.records()
        return record

    async def has_state(self, *states: Any) -> bool:
        """Whether the records there are have these states."""
        return [record.state for record in await self.records()] == list(states)

    async def is_idle(self) -> bool:
        """Whether no operation is under way."""
        return not self.interceptor._flights._flights

    async def is_followed(self, count: int) -> bool:
        """Whether so many calls follow the one operation that runs."""
        return [flight.followers for flight in list(self.interceptor._flights._flights.values())] == [count]


async def _nothing() -> None: ...


async def of_store(kind: str, ask: Callable[[], Any]) -> Any:
    """Asks a store of either kind."""
    return await asyncio.to_thread(ask) if kind == "sync" else await ask()


class Servers:
    """Starts servers of one kind, and stops them all at the end."""

    def __init__(self, kind: str, folder: Path, stack: AsyncExitStack) -> None:
        self.kind = kind
        self.path = folder / "records.db"
        self._stack = stack

    def store(self) -> Any:
        """A store for this kind of server."""
        return SQLiteStore(self.path) if self.kind == "sync" else aio.SQLiteStore(self.path)

    async def __call__(
        self,
        methods: Mapping[str, Rpc],
        *,
        policy: Policy | None = None,
        policies: Mapping[str, Policy] | None = None,
        store: Any = None,
        outside: Sequence[Any] = (),
        inside: Sequence[Any] = (),
        workers: int = 8,
        max_waiters: int | None = None,
        add: Callable[[Any], object] = lambda _server: None,
        drain_limit: timedelta = timedelta(seconds=5),
        **options: Any,
    ) -> Service:
        """Serves the methods behind the interceptor; ``policies`` go by the methods' short names.

        ``workers`` and ``max_waiters`` are for a server on threads alone.
        """
        if self.kind == "sync" and max_waiters is not None:
            options["max_waiters"] = max_waiters
        make: Any = IdempotencyInterceptor if self.kind == "sync" else aio.IdempotencyInterceptor
        interceptor = make(
            store or self.store(),
            policy=policy or Policy(),
            methods={full(name): given for name, given in (policies or {}).items()},
            drain_limit=drain_limit,
            **options,
        )
        interceptors = [*outside, interceptor, *inside]
        server: Any
        if self.kind == "sync":
            pool = self._stack.enter_context(ThreadPoolExecutor(workers))
            server = grpc.server(pool, interceptors=interceptors, options=_OPTIONS)
        else:
            server = grpc.aio.server(interceptors=interceptors, options=_OPTIONS)
        interceptor.attach(server)
        server.add_generic_rpc_handlers((generic_handler(self.kind, methods),))
        add(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await self.ask(server.start)
        target = f"127.0.0.1:{port}"
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(target))
        service = Service(self.kind, channel, methods, target=target, interceptor=interceptor)
        service.stop = lambda: self.ask(lambda: server.stop(None).wait() if self.kind == "sync" else server.stop(None))
        self._stack.push_async_callback(service.stop)
        return service

    async def ask(self, ask: Callable[[], Any]) -> Any:
        """Asks something of this kind of server or store."""
        return await of_store(self.kind, ask)

    async def client(self, service: Service) -> Client:
        """Another connection to a server."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(service.target, options=options))
        return Client(channel, service.methods)


_OPTIONS = [("grpc.so_reuseport", 0)]

__all__ = ["SERVICE", "Call", "Client", "Reply", "Servers", "Service", "new_key", "replace"]
