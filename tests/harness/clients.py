"""Clients of ``grpc.aio`` whose calls, of all four cardinalities, end in a :class:`Reply`."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import StringValue

from .handlers import SERVICE, Handler, Method, shape
from .replies import COUNT, KEY, Reply, secrets_told

Metadata = Sequence[tuple[str, str | bytes]]
Request = str | bytes | Message

LIMIT = 20.0
"""Seconds within which a call is answered, long before its deadline: no client may be left hanging."""
DEADLINE = 60.0

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
"""Channel options for a connection that no other channel shares."""


def service_config(**method: object) -> list[tuple[str, Any]]:
    """Returns channel options with a service config for all methods."""
    config = {"methodConfig": [{"name": [{}], **method}]}
    return [("grpc.service_config", json.dumps(config)), ("grpc.experimental.enable_hedging", 1)]


def serialized(request: Request) -> bytes:
    """Returns a request's bytes; text is wrapped in a ``StringValue``, and no log line may contain it from now on."""
    if isinstance(request, str):
        if len(request) > 7:
            secrets_told.add(request)
        request = StringValue(value=request)
    return request if isinstance(request, bytes) else request.SerializeToString()


class Call:
    """A started call; its messages are read one by one, or all with its end."""

    def __init__(self, call: Any, over: asyncio.Event, *, gives_stream: bool) -> None:
        self.call = call
        self._over = over
        self._gives_stream = gives_stream
        self._messages: list[bytes] = []

    async def read(self) -> str:
        """Returns the text of the stream's next message."""
        message = await asyncio.wait_for(self.call.read(), LIMIT)
        assert isinstance(message, bytes), f"the stream is at its end: {await self.call.code()}"
        self._messages.append(message)
        return StringValue.FromString(message).value

    def cancel(self) -> None:
        self.call.cancel()

    async def end(self, within: float = LIMIT) -> Reply:
        """Reads what is left, and returns the reply."""
        return await asyncio.wait_for(self._end(), within)

    async def _end(self) -> Reply:
        try:
            with suppress(grpc.aio.AioRpcError):
                if self._gives_stream:
                    while (message := await self.call.read()) is not grpc.aio.EOF:
                        self._messages.append(message)
                else:
                    self._messages.append(await self.call)
        finally:
            self._over.set()
        return Reply(
            status=await self.call.code(),
            messages=tuple(self._messages),
            details=await self.call.details() or "",
            trailers=tuple(await self.call.trailing_metadata() or ()),
            initial=tuple(await self.call.initial_metadata() or ()),
        )


class Client:
    """A channel to a server, and calls over it; a method that is not among ``methods`` is unary."""

    def __init__(
        self, channel: grpc.aio.Channel, methods: Mapping[str, Handler | Method] | None = None, service: str = SERVICE
    ) -> None:
        self.channel = channel
        self.methods = methods or {}
        self.service = service

    def _streams(self, method: str) -> tuple[bool, bool]:
        """Returns whether a method takes a stream, and whether it answers with one."""
        known = self.methods.get(method)
        return (known.takes_stream, known.gives_stream) if isinstance(known, Method) else (False, False)

    def start(
        self,
        method: str,
        *requests: Request,
        key: str | None = None,
        count: int | str | None = -1,
        metadata: Metadata = (),
        timeout: float | None = DEADLINE,
        silent: bool = False,
    ) -> Call:
        """Starts a call.

        ``count`` is the message count that a client-stream announces; -1: that of ``requests``. A ``silent`` stream
        sends nothing, for a call that is refused before its messages are read: see :func:`silence`.
        """
        takes_stream, gives_stream = self._streams(method)
        sent = [*metadata]
        if key is not None:
            sent.append((KEY, key))
            if takes_stream and count is not None:
                sent.append((COUNT, str(len(requests) if count == -1 else count)))
        raws = [serialized(request) for request in requests]
        stub: Any = getattr(self.channel, shape(takes_stream, gives_stream))(f"/{self.service}/{method}")
        over = asyncio.Event()
        stream = silence(over) if silent else _stream(raws)
        request: Any = stream if takes_stream else raws[0] if raws else b""
        return Call(stub(request, timeout=timeout, metadata=tuple(sent)), over, gives_stream=gives_stream)

    async def call(self, method: str, *requests: Request, within: float = LIMIT, **options: Any) -> Reply:
        """Makes a call, and returns its reply."""
        return await self.start(method, *requests, **options).end(within)


async def _stream(messages: Sequence[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


async def silence(over: asyncio.Event) -> AsyncIterator[Any]:
    """A stream of requests that sends nothing, and ends when its call is over.

    gRPC's asyncio client can report INTERNAL, "Internal error from Core", in place of the server's status if it writes
    a message while the server ends the call. So a test of a call that ends before its messages are read sends none.
    Other handlers read their stream to its end: see :func:`~.handlers.whole`.
    """
    nothing: Sequence[Any] = ()
    await over.wait()
    for message in nothing:
        yield message


async def blocking_call(target: str, method: str, *requests: Request, metadata: Metadata = ()) -> Reply:
    """Makes a call of any cardinality by gRPC's client for threads; ``method`` is a full name.

    It may be answered before all of its messages are sent, unlike one by the asyncio client: see :func:`silence`.
    """
    raws = [serialized(request) for request in requests]

    def block() -> Reply:
        with grpc.insecure_channel(target) as channel:
            stub: Any = channel.stream_stream(method)  # on the wire a single message is a stream of one
            call = stub(iter(raws), timeout=DEADLINE, metadata=tuple(metadata))
            messages: list[bytes] = []
            with suppress(grpc.RpcError):
                messages += call
            return Reply(
                status=call.code(),
                messages=tuple(messages),
                details=call.details() or "",
                trailers=tuple((name, value) for name, value in call.trailing_metadata() or ()),
            )

    return await asyncio.wait_for(asyncio.to_thread(block), LIMIT)
