"""What tests of cancelled and ended handlers need: a handler that counts its runs, a stream, and who cancels."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, aio

from ..harness.handlers import server_stream
from ..harness.replies import text
from ..harness.servers import Servers, Service
from ..harness.waiting import Gate
from .test_keys import PACKAGE, Request

THREAD = pytest.mark.parametrize("kind", ["thread"])
EFFECTS = pytest.mark.parametrize("effects", Effects)


class Counting:
    """A handler that can be held up, and that knows how many of its runs there are."""

    def __init__(self, *, stubborn: bool = False) -> None:
        self.began, self.go = Gate(), Gate()
        self.runs = self.inside = self.most_inside = 0
        self._stubborn = stubborn
        """Whether it swallows cancellations."""
        self._lock = threading.Lock()

    async def __call__(self, _request: StringValue, _context: Any) -> StringValue:
        with self._lock:
            self.runs += 1
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
            run = self.runs
        try:
            self.began.open()
            while not self.go.opened:
                try:
                    await self.go.wait()
                except asyncio.CancelledError:
                    if not self._stubborn:
                        raise
        finally:
            with self._lock:
                self.inside -= 1
        return text(f"run {run}")


def tasks_of_the_library() -> list["asyncio.Task[Any]"]:
    """The tasks that run the library's own coroutines."""
    folder = str(Path(aio.__file__).parent)
    return [
        task
        for task in asyncio.all_tasks()
        if getattr(getattr(task.get_coro(), "cr_code", None), "co_filename", "").startswith(folder)
    ]


def cancel_all() -> None:
    """Cancels them, as a server does that cancels whatever it finds."""
    tasks = tasks_of_the_library()
    assert tasks
    for task in tasks:
        task.cancel()


async def streaming(serve: Servers, export: Any, **options: Any) -> Service:
    """A server of one stream of a ``def`` generator."""
    method = server_stream(export, native=True, request=Request, reply=Request)
    return await serve({"Do": method}, service=f"{PACKAGE}.Service", **options)
