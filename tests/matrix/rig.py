"""The columns of the matrix: one server for each kind of handler and each store, and a client that sees everything."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

import grpc_idempotency
from grpc_idempotency import Caller, Code, Disposition, Effects, Policy, Record, State, aio
from grpc_idempotency.records import Claim

from ..harness.clients import Metadata
from ..harness.replies import KEY, Reply
from ..harness.stores import FlakyMemory, FlakyStore, for_threads
from ..harness.waiting import Gate, ms, until
from .echo import BIDI, CLIENT, SERVER, UNARY, Echo, Play

STORES = ("sqlite", "memory")
COUNT = "idempotency-message-count"

VARIANTS = {
    "plain": Policy(),
    "required": Policy(required=True),
    "hasty": Policy(wait=ms(0)),
    "patient": Policy(wait=ms(120)),
    "early": Policy(wait_margin=ms(1500)),
    "stingy": Policy(max_response_bytes=30, max_request_bytes=300),
    "limited": Policy(execution_limit=ms(60)),
    "brief": Policy(ttl=ms(40)),
    "through": Policy(pass_bidirectional=True),
    "unprotected": Policy(unprotected=True),
    "repeatable": Policy(effects=Effects.REPEATABLE),
    "transactional": Policy(effects=Effects.TRANSACTIONAL),
    "swapped": Policy(statuses={Code.NOT_FOUND: Disposition.RELEASE, Code.ABORTED: Disposition.STORE}),
    "renewed": Policy(lease=ms(400), renew_every=ms(60)),
}
"""Policies by the part of the service's name that asks for them: one server has them all."""


@dataclass(frozen=True, kw_only=True)
class Answer(Reply):
    """All that a client gets to see of a call, of whatever kind."""

    @property
    def texts(self) -> list[str]:
        """What an OK answer says, in one list for each kind of call."""
        assert self.status is grpc.StatusCode.OK, self
        values = [StringValue.FromString(message).value for message in self.messages]
        return [part for value in values for part in value.split("|")]


class Column:
    """A server, with a store of its own, and a channel to it."""

    def __init__(self, kind: str, store: str, faults: "FlakyStore | FlakyMemory", path: Path) -> None:
        self.kind = kind
        self.store_kind = store
        self.faults = faults
        self.path = path
        self.records: Any = faults
        """The store's calls, awaited, for the test."""
        self.channel: grpc.aio.Channel
        self.interceptor: Any

    def gone(self) -> bool:
        """Whether the server has heard that the client of the one operation that runs has gone."""
        return len(self.interceptor._flights.detached) == 1

    def followers(self) -> int:
        """How many calls follow the one operation that runs."""
        return sum(flight.followers for flight in list(self.interceptor._flights._flights.values()))


class _Awaited:
    """A store for threads, as one for asyncio: for the test to look into."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **options: Any) -> Any:
            return getattr(self._store, name)(*args, **options)

        return call


def _principal(caller: Caller) -> str | None:
    name = dict(caller.metadata).get("x-user", "everybody")
    assert isinstance(name, str)
    return None if name == "nobody" else name


@asynccontextmanager
async def serving(kind: str, store: str, folder: Path) -> AsyncIterator[Column]:
    """Starts the server of a column, and stops it."""
    path = folder / "matrix.db"
    faults = FlakyStore(path) if store == "sqlite" else FlakyMemory()
    column = Column(kind, store, faults, path)
    if isinstance(faults, FlakyStore):
        await faults.transaction(lambda db: db.execute("CREATE TABLE rows (play TEXT)"))
    policies = {name: one for name, one in VARIANTS.items() if store == "sqlite" or name != "transactional"}
    options: dict[str, Any] = {
        "methods": {f"/matrix.{name}.*": policy for name, policy in policies.items()},
        "principal": _principal,
        "drain_limit": timedelta(seconds=5),
    }
    started = (_on_threads if kind == "sync" else _on_asyncio)(column, options)
    async with started as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as column.channel:
        yield column
    if isinstance(faults, FlakyStore):
        await faults.close()


@asynccontextmanager
async def _on_asyncio(column: Column, options: Any) -> AsyncIterator[int]:
    column.interceptor = aio.IdempotencyInterceptor(column.faults, **options)
    server = grpc.aio.server(interceptors=[column.interceptor], options=[("grpc.so_reuseport", 0)])
    column.interceptor.attach(server)
    server.add_generic_rpc_handlers((Echo(column.kind, column.faults),))  # type: ignore[arg-type]  # it is like one
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(None)


@asynccontextmanager
async def _on_threads(column: Column, options: Any) -> AsyncIterator[int]:
    store = for_threads(column.faults)
    if column.store_kind == "memory":
        column.records = _Awaited(store)
    column.interceptor = grpc_idempotency.IdempotencyInterceptor(store, max_waiters=16, **options)
    with ThreadPoolExecutor(max_workers=32) as pool:
        server = grpc.server(pool, interceptors=[column.interceptor], options=[("grpc.so_reuseport", 0)])
        column.interceptor.attach(server)
        server.add_generic_rpc_handlers((Echo(column.kind, column.faults),))  # type: ignore[arg-type]  # it is like one
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield port
        await asyncio.to_thread(server.stop(None).wait)


class Call:
    """A call under way."""

    def __init__(self, shape: str, call: Any, over: asyncio.Event) -> None:
        self._shape = shape
        self._call = call
        self.first = Gate()
        """Open when a first message has come."""
        self._over = over
        self._end: asyncio.Task[Answer] = asyncio.ensure_future(self._to_end())

    async def _to_end(self) -> Answer:
        try:
            return await self._answer()
        finally:
            self._over.set()

    async def _answer(self) -> Answer:
        messages = []
        with suppress(grpc.aio.AioRpcError):
            if self._shape in (SERVER, BIDI):
                async for message in self._call:
                    messages.append(message)
                    self.first.open()
            else:
                messages.append(await self._call)
        return Answer(
            status=await self._call.code(),
            messages=tuple(messages),
            details=await self._call.details() or "",
            trailers=tuple(await self._call.trailing_metadata() or ()),
            initial=tuple(await self._call.initial_metadata() or ()),
        )

    def done(self) -> bool:
        return self._end.done()

    async def answer(self) -> Answer:
        return await self._end

    async def cancel(self) -> None:
        self._call.cancel()
        with suppress(asyncio.CancelledError):
            await self._end


class Cell:
    """A kind of call at a server."""

    def __init__(self, column: Column, shape: str) -> None:
        self.column = column
        self.shape = shape
        self.faults = column.faults
        self.records = column.records

    @property
    def streams(self) -> bool:
        """Whether the answer is a stream."""
        return self.shape in (SERVER, BIDI)

    def key(self) -> str:
        return f"key-{secrets.token_hex(8)}"

    def texts(self, *texts: str) -> tuple[str, ...]:
        """As many as this kind of call takes."""
        return texts if self.shape in (CLIENT, BIDI) else texts[:1]

    def start(
        self,
        play: Play,
        *texts: str,
        key: str | None = None,
        variant: str = "plain",
        metadata: Metadata = (),
        timeout: float | None = 20,
        count: int | None = None,
        refused: bool = False,
    ) -> Call:
        """Begins a call; by default with as many messages as it says, two in a stream.

        ``refused``: it is going to be. A bidirectional stream then sends nothing before, since a client of ``grpc.aio``
        that is writing while its call is ended often makes ``Internal error from Core`` of whatever the status was.
        """
        method = {
            UNARY: self.column.channel.unary_unary,
            SERVER: self.column.channel.unary_stream,
            CLIENT: self.column.channel.stream_unary,
            BIDI: self.column.channel.stream_stream,
        }[self.shape]
        raws = [message.SerializeToString() for message in play.request(*(texts or self.texts("a", "b")))]
        everything = [*metadata]
        if key is not None:
            everything.append((KEY, key))
        if self.shape == CLIENT:
            everything.append((COUNT, str(len(raws) if count is None else count)))
        over = asyncio.Event()

        async def silent() -> AsyncIterator[bytes]:
            await over.wait()
            for raw in list[bytes]():
                yield raw

        request: Any = raws[0]
        if self.shape in (CLIENT, BIDI):
            request = silent() if refused and self.shape == BIDI else iter(raws)
        stub: Any = method(f"/matrix.{variant}.Echo/{self.shape}")
        return Call(self.shape, stub(request, metadata=everything, timeout=timeout), over)

    async def call(self, play: Play, *texts: str, **options: Any) -> Answer:
        """A call, to its end."""
        return await self.start(play, *texts, **options).answer()

    # States that no event tells of

    async def is_followed(self, count: int) -> None:
        """Waits until so many calls follow the one operation that runs."""

        async def followed() -> bool:
            return self.column.followers() == count

        await until(followed)

    async def is_gone(self) -> None:
        """Waits until the server has heard that its client has gone."""

        async def gone() -> bool:
            return self.column.gone()

        await until(gone)

    async def record(self) -> Record | None:
        """The record of the operation that was claimed last."""
        record: Record | None = await self.records.get(self.faults.claims[-1].name)
        return record

    async def until_record(self, condition: Callable[[Record | None], bool]) -> None:
        """Waits until there is such a record of the operation that was claimed last."""

        async def so() -> bool:
            return condition(await self.record())

        await until(so)

    async def until_completed(self) -> None:
        """Waits until the operation that was claimed last is stored, and the server has let go of it."""

        async def so() -> bool:
            record = await self.record()
            stored = record is not None and record.state is State.COMPLETED
            return stored and self.faults.claims[-1].name not in self.column.interceptor._flights._flights

        await until(so)

    async def elsewhere(self, key: str, variant: str, *, lease: timedelta) -> tuple[Play, Claim]:
        """Another server has claimed the operation that a call with this key would be, and runs it."""

        async def refuses(context: Any) -> None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "nothing happened")

        play = Play(refuses)
        first = await self.call(play, key=key, variant=variant)
        assert first.status is grpc.StatusCode.UNAVAILABLE, first
        play.act = None
        claim = replace(self.faults.claims[-1], fence=secrets.token_bytes(16), lease=lease)
        assert await self.records.claim(claim) is None
        return play, claim
