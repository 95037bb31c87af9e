"""The columns of the matrix: one server for each kind of handler and each store, and a client that sees everything."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from grpc_idempotency import Caller, Code, Disposition, Effects, Policy, Record, State
from grpc_idempotency.aio import PostgresStore, SQLiteStore
from grpc_idempotency.records import Claim

from ..harness import clients
from ..harness.clients import Client, Metadata
from ..harness.handlers import generic_handler
from ..harness.replies import Reply, new_key
from ..harness.servers import Server, interceptor_of
from ..harness.stores import Faults, FlakyMemory, FlakyPostgres, FlakyStore, for_threads
from ..harness.waiting import Gate, ms, until
from ..postgres.conftest import Place
from .echo import BIDI, CLIENT, SERVER, Echo, Play

STORES = ("sqlite", "memory", "postgresql")
SLOW = ("postgresql",)
"""The stores whose cells are left to the slow tests."""

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
    "repeatable": Policy(effects=Effects.REPEATABLE, recover=False),
    "transactional": Policy(effects=Effects.TRANSACTIONAL),
    "recovered": Policy(effects=Effects.TRANSACTIONAL, recover=True),
    "swapped": Policy(statuses={Code.NOT_FOUND: Disposition.RELEASE, Code.ABORTED: Disposition.STORE}),
    "renewed": Policy(lease=ms(400), renew_every=ms(60)),
}
"""Policies by the part of the service's name that asks for them: one server has them all.

None of them recovers, since the tests count claims.
"""

no_operation = pytest.mark.left_out(
    bidi="a keyed bidirectional call is refused or passed through: no operation comes of it (4.8)"
)
transactions = pytest.mark.left_out(memory="the memory store has no transactions (6.2)")


def said(reply: Reply) -> list[str]:
    """Returns what an OK reply says, in one list for each kind of call."""
    assert reply.status is grpc.StatusCode.OK, reply
    return [part for text in reply.texts for part in text.split("|")]


class Column:
    """A server, with a store of its own, and a channel to it."""

    def __init__(self, kind: str, store: str, faults: Any, beside: Any) -> None:
        self.kind = kind
        self.store_kind = store
        self.faults: Faults = faults
        self.beside = beside
        """A store on the same database, to look into it while the server uses its own."""
        self.records: Any = faults
        """The store's calls, awaited, for the test."""
        self.clients: dict[str, Client]
        """By variant."""
        self.interceptor: Any

    def gone(self) -> bool:
        """Whether the server has heard that the client of the one operation that runs has gone."""
        return len(self.interceptor._executions.detached) == 1

    def followers(self) -> int:
        """How many calls follow the one operation that runs."""
        return sum(execution.followers for execution in list(self.interceptor._executions._executions.values()))


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
async def serving(kind: str, store: str, folder: Path, place: Place | None) -> AsyncIterator[Column]:
    """Starts the server of a column, and stops it. ``place`` is where the column has PostgreSQL to itself."""
    faults: Any = FlakyMemory()
    beside: Any = None
    if store == "sqlite":
        faults, beside = FlakyStore(folder / "matrix.db"), SQLiteStore(folder / "matrix.db")
    elif place is not None:
        faults, beside = (one(place.url, schema=place.schema) for one in (FlakyPostgres, PostgresStore))
    column = Column(kind, store, faults, beside)
    policies = {
        name: one for name, one in VARIANTS.items() if store != "memory" or one.effects is not Effects.TRANSACTIONAL
    }
    options: dict[str, Any] = {"max_waiters": 16} if kind == "sync" else {}
    own = for_threads(faults) if kind == "sync" else faults
    if beside is not None:
        await beside.transaction(lambda db: db.execute("CREATE TABLE rows (play TEXT)"))
    elif kind == "sync":
        column.records = _Awaited(own)
    column.interceptor = interceptor_of(
        kind,
        own,
        methods={f"/matrix.{name}.*": policy for name, policy in policies.items()},
        principal=_principal,
        drain_limit=timedelta(seconds=5),
        **options,
    )
    server, methods = Server(kind, [column.interceptor], workers=32), Echo(faults).methods()
    column.interceptor.attach(server.real)
    server.add(*(generic_handler(kind, methods, f"matrix.{name}.Echo") for name in policies))
    async with AsyncExitStack() as stack:
        if beside is not None:
            stack.push_async_callback(faults.close)
            stack.push_async_callback(beside.close)
        target = await server.start()
        stack.push_async_callback(server.stop)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(target))
        column.clients = {name: Client(channel, methods, f"matrix.{name}.Echo") for name in policies}
        yield column


class Call:
    """A call under way, whose messages are read as they come."""

    def __init__(self, call: clients.Call, *, gives_stream: bool) -> None:
        self.first = Gate()
        """Open when a first message of a stream has come."""
        self._call = call
        self._end: asyncio.Task[Reply] = asyncio.ensure_future(self._to_end(gives_stream))

    async def _to_end(self, gives_stream: bool) -> Reply:
        if gives_stream:
            with suppress(AssertionError, grpc.aio.AioRpcError):
                await self._call.read()
                self.first.open()
        return await self._call.end()

    def done(self) -> bool:
        return self._end.done()

    async def answer(self) -> Reply:
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
        return new_key()

    def method(self, variant: str = "plain") -> str:
        """Returns the full name of the cell's method."""
        return f"/matrix.{variant}.Echo/{self.shape}"

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
        count: int | str = -1,
        refused: bool = False,
    ) -> Call:
        """Begins a call, by default with one message, or two in a stream.

        ``refused``: the call is going to be, before its messages are read. A stream of requests then sends none: see
        :func:`~..harness.clients.silence`.
        """
        messages = play.request(*(texts or self.texts("a", "b")))
        call = self.column.clients[variant].start(
            self.shape,
            *messages,
            key=key,
            count=count,
            metadata=metadata,
            timeout=timeout,
            silent=refused,
        )
        return Call(call, gives_stream=self.streams)

    async def call(self, play: Play, *texts: str, **options: Any) -> Reply:
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
            return stored and self.faults.claims[-1].name not in self.column.interceptor._executions._executions

        await until(so)

    async def elsewhere(self, key: str, variant: str, *, lease: timedelta) -> tuple[Play, Claim]:
        """Another server has claimed the operation that a call with this key would be, and runs it.

        Its request is not stored, so that recovery leaves it to the test.
        """

        async def refuses(context: Any) -> None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "nothing happened")

        play = Play(refuses)
        first = await self.call(play, key=key, variant=variant)
        assert first.status is grpc.StatusCode.UNAVAILABLE, first
        play.act = None
        claim = replace(self.faults.claims[-1], fence=secrets.token_bytes(16), lease=lease, request=None)
        assert await self.records.claim(claim) is None
        return play, claim
