"""Calls that an observer hears of, and the lines of their events."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from grpc_idempotency import Reason
from grpc_idempotency.events import (
    BatchCommitted,
    CallAnswered,
    Drained,
    RecordsCounted,
    StoreCalled,
    Swept,
)

from ..harness.replies import Reply
from ..harness.servers import Service
from ..harness.stores import FlakyStore
from ..matrix.echo import BIDI, CLIENT, SERVER, UNARY, Play
from .recording import Recorder, line

KINDS_OF_CALLS = (UNARY, SERVER, CLIENT)
CLAIMED, STARTED, ENDED = "Claimed 1", "ExecutionStarted 1", "ExecutionEnded 1 answered"
COMPLETED, EXECUTED = "Settled completed", "CallAnswered executed ok"
FIRST = [CLAIMED, STARTED, ENDED, COMPLETED, EXECUTED]
"""The events of a first call that succeeds."""
REPLAYED = "CallAnswered replayed ok"


class Rig:
    """A server whose observer keeps what it hears of calls and operations."""

    def __init__(self, service: Service, store: FlakyStore, shape: str, heard: Recorder) -> None:
        self.service = service
        self.shape = shape
        self.heard = heard
        self.store = store

    async def call(self, play: Play, *texts: str, key: str | None = None, **options: Any) -> Reply:
        """Makes a call, and waits until its answer was told."""
        before = len(self.heard.of(CallAnswered))
        reply: Reply = await self.start(play, *texts, key=key, **options).end()
        await self.heard.answered(before + 1)
        return reply

    def start(self, play: Play, *texts: str, key: str | None = None, **options: Any) -> Any:
        texts = texts or (("a", "b") if self.shape in (CLIENT, BIDI) else ("a",))
        return self.service.start(self.shape, *play.request(*texts), key=key, **options)

    def lines(self) -> list[str]:
        """What was told of the calls and operations, without the ages of replays."""
        kinds = (StoreCalled, BatchCommitted, RecordsCounted, Swept, Drained)
        told = [event for event in self.heard.told if not isinstance(event, kinds)]
        return [line(event).partition(" 0:00:")[0] for event in told]


Start = Callable[..., Awaitable[Rig]]
each_call = pytest.mark.parametrize("shape", KINDS_OF_CALLS)


def told_of(reason: Reason) -> str:
    """Returns the line of a refusal's event."""
    return f"CallAnswered refused {reason.name.lower()} {reason.status.name.lower()}"
