"""A handler that sends the messages of a stream when it is let."""

import collections
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from ..harness.replies import text
from ..harness.waiting import Gate

OK = grpc.StatusCode.OK
DATA_LOSS = grpc.StatusCode.DATA_LOSS
FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


class Steps:
    """A handler that sends each message when it is let; then ends as it is told."""

    def __init__(self, count: int = 4, *, size: int = 0, fails: bool = False) -> None:
        self.gates = collections.defaultdict[int, Gate](Gate)
        self.runs = 0
        self.sent = 0
        self.ended = Gate()
        self._count = count
        self._size = size
        self._fails = fails

    def let(self, upto: int) -> None:
        """Lets it send so many messages; one more for its end."""
        for number in range(upto):
            self.gates[number].open()

    def let_all(self) -> None:
        self.let(self._count + 1)

    async def __call__(self, request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        self.runs += 1
        run = self.runs
        for number in range(self._count):
            await self.gates[number].wait(30)
            yield text(f"{run}.{number}" + "x" * self._size)
            self.sent = number + 1
        await self.gates[self._count].wait(30)
        self.ended.open()
        if self._fails:
            context.set_trailing_metadata((("x-why", "chance"),))
            await context.abort(grpc.StatusCode.DATA_LOSS, "the rest is gone")


def texts(count: int, size: int = 0) -> list[str]:
    return [f"1.{number}" + "x" * size for number in range(count)]
