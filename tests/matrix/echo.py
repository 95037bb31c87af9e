"""An echo service with all four kinds of call, whose handlers play what a test wants."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar

from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Database

from ..harness.handlers import Method, bidirectional, client_stream, server_stream, unary, whole
from ..harness.replies import text
from ..harness.waiting import Gate

UNARY, SERVER, CLIENT, BIDI = SHAPES = ("unary", "server", "client", "bidi")
"""One request or a stream of them, one response or a stream of them."""

Act = Callable[[Any], Awaitable[None]]


class Play:
    """What the handler does in the calls of one test, and what it did."""

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
        """Each run does ``act``, and then replies.

        Args:
            act: Called with the context.
            blocks: A run waits for ``go`` before it acts.
            early: A stream of responses begins before its run acts and waits.
            row: The reply comes out of a transaction that inserts a row.
            counted: A reply tells which run it is of.
        """
        self.name = secrets.token_hex(4)
        self.act, self.blocks, self.early, self.row, self.counted = act, blocks, early, row, counted
        self.began, self.go, self.ended = Gate(), Gate(), Gate()
        self.runs = 0
        self.contexts: list[str] = []
        """The modules of the contexts that its runs got."""
        Play.known[self.name] = self

    def request(self, *texts: str) -> list[StringValue]:
        """Returns the messages that have this played."""
        return [text(f"{self.name}:{one}") for one in texts or ("",)]

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
        return [text(one) for one in (f"run {self.runs if self.counted else 'of many'}", *texts)]

    def insert(self, db: Database) -> None:
        db.execute(f"INSERT INTO rows (play) VALUES ('{self.name}')")  # engines write parameters differently


class Echo:
    """The handlers; ``store`` is for those whose reply comes out of a transaction."""

    def __init__(self, store: Any = None) -> None:
        self._store = store

    def methods(self) -> dict[str, Method]:
        return {
            UNARY: unary(self._one),
            SERVER: server_stream(self._many),
            CLIENT: client_stream(self._one),
            BIDI: bidirectional(self._many),
        }

    async def _one(self, incoming: Any, context: Any) -> StringValue:
        play, texts = await _read(incoming)
        await play.begin(context)

        def reply(db: Database | None) -> StringValue:
            if db is not None:
                play.insert(db)
            return text("|".join(message.value for message in play.echo(texts)))

        return await self._store.transaction(reply) if play.row else reply(None)

    async def _many(self, incoming: Any, context: Any) -> AsyncIterator[StringValue]:
        play, texts = await _read(incoming)
        if play.early:
            yield text("early")
        await play.begin(context)

        def reply(db: Database | None) -> list[StringValue]:
            if db is not None:
                play.insert(db)
            return play.echo(texts)

        for message in await self._store.transaction(reply) if play.row else reply(None):
            yield message


async def _read(incoming: Any) -> tuple[Play, list[str]]:
    parts = [message.value.partition(":") for message in await whole(incoming)]
    return Play.known[parts[0][0]], [one for _, _, one in parts]
