"""An echo service with all four kinds of call, which knows nothing but what a test wants it to play.

The handlers are written once, as ``async def``, and served as each kind of handler that a server can have: as they are
on ``grpc.aio``, as ``def`` on a thread of it, and as ``def`` on a ``grpc.server``.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, ClassVar

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Database

from ..harness.handlers import Face
from ..harness.waiting import Gate

UNARY, SERVER, CLIENT, BIDI = SHAPES = ("unary", "server", "client", "bidi")
"""One request or a stream of them, one response or a stream of them."""
KINDS = ("aio", "def", "sync")
"""``async def`` on ``grpc.aio``, ``def`` on ``grpc.aio``, ``def`` on ``grpc.server`` (4.10)."""

Act = Callable[[Any], Awaitable[None]]


class Play:
    """What the handler is to do in the calls of one test, and what it did."""

    known: ClassVar[dict[str, "Play"]] = {}

    def __init__(
        self,
        act: Act | None = None,
        *,
        blocks: bool = False,
        early: bool = False,
        row: bool = False,
        counted: bool = True,
    ) -> None:
        """``act`` is done in each run; ``blocks``: it waits for ``go``; ``row``: its reply comes of a transaction.

        ``early``: a stream of responses begins before it acts and waits. ``counted``: a reply tells which run it is of.
        """
        self.name = secrets.token_hex(4)
        self.act, self.blocks, self.early, self.row, self.counted = act, blocks, early, row, counted
        self.began, self.go, self.ended = Gate(), Gate(), Gate()
        self.runs = 0
        self.contexts: list[str] = []
        """The modules of the contexts that it got."""
        Play.known[self.name] = self

    def request(self, *texts: str) -> list[StringValue]:
        """The messages that have this played."""
        return [StringValue(value=f"{self.name}:{text}") for text in texts or ("",)]

    async def begin(self, context: Any) -> None:
        self.runs += 1
        live = getattr(context, "live", context)
        self.contexts.append(type(getattr(live, "_context", live)).__module__)
        self.began.open()
        if self.blocks:
            await self.go.wait()
        if self.act is not None:
            await self.act(context)

    def echo(self, texts: list[str]) -> list[StringValue]:
        self.ended.open()
        return [StringValue(value=text) for text in (f"run {self.runs if self.counted else 'of many'}", *texts)]

    def insert(self, db: Database) -> None:
        db.execute("INSERT INTO rows (play) VALUES (?)", (self.name,))


class Echo:
    """The handlers; ``store`` is for those whose reply comes of a transaction."""

    def __init__(self, kind: str, store: Any) -> None:
        self._kind = kind
        self._store = store

    async def one(self, requests: list[StringValue], context: Any) -> StringValue:
        play, texts = _read(requests)
        await play.begin(context)

        def reply(db: Database | None) -> StringValue:
            if db is not None:
                play.insert(db)
            return StringValue(value="|".join(message.value for message in play.echo(texts)))

        return await self._store.transaction(reply) if play.row else reply(None)

    async def many(self, requests: list[StringValue], context: Any) -> AsyncIterator[StringValue]:
        play, texts = _read(requests)
        if play.early:
            yield StringValue(value="early")
        await play.begin(context)

        def reply(db: Database | None) -> list[StringValue]:
            if db is not None:
                play.insert(db)
            return play.echo(texts)

        for message in await self._store.transaction(reply) if play.row else reply(None):
            yield message

    # For grpc

    def service(self, details: Any) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Serves the four methods under whatever service name."""
        shape = details.method.rpartition("/")[2]
        make: Any = {
            UNARY: grpc.unary_unary_rpc_method_handler,
            SERVER: grpc.unary_stream_rpc_method_handler,
            CLIENT: grpc.stream_unary_rpc_method_handler,
            BIDI: grpc.stream_stream_rpc_method_handler,
        }.get(shape)
        if make is None:
            return None
        behaviour = self._on_loop(shape) if self._kind == "aio" else self._on_thread(shape)
        handler: grpc.RpcMethodHandler[Any, Any] = make(
            behaviour, request_deserializer=StringValue.FromString, response_serializer=StringValue.SerializeToString
        )
        return handler

    def _on_loop(self, shape: str) -> Any:
        async def come(incoming: Any) -> list[StringValue]:
            return [message async for message in incoming] if shape in (CLIENT, BIDI) else [incoming]

        async def one(incoming: Any, context: Any) -> StringValue:
            return await self.one(await come(incoming), context)

        async def many(incoming: Any, context: Any) -> AsyncIterator[StringValue]:
            async for message in self.many(await come(incoming), context):
                yield message

        return many if shape in (SERVER, BIDI) else one

    def _on_thread(self, shape: str) -> Any:
        def come(incoming: Any) -> list[StringValue]:
            return list(incoming) if shape in (CLIENT, BIDI) else [incoming]

        def one(incoming: Any, context: Any) -> StringValue:
            return asyncio.run(self._once(come(incoming), context))

        def many(incoming: Any, context: Any) -> Iterator[StringValue]:
            messages = self.many(come(incoming), Face(context))
            loop = asyncio.new_event_loop()
            try:
                while True:
                    yield loop.run_until_complete(anext(messages))
            except StopAsyncIteration:
                return
            finally:
                loop.close()

        return many if shape in (SERVER, BIDI) else one

    async def _once(self, requests: list[StringValue], context: Any) -> StringValue:
        return await self.one(requests, Face(context))


def _read(requests: list[StringValue]) -> tuple[Play, list[str]]:
    parts = [message.value.partition(":") for message in requests]
    return Play.known[parts[0][0]], [text for _, _, text in parts]
