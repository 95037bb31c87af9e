"""Refuses calls of a store from threads for which a transaction's function waits (5.1).

The function may start such a thread, or hand work to it. The thread's context does not show the function, so its calls
are not refused as those in the function's own context are. So a call that is made while a function runs starts a watch.
The watch looks at what blocks the function's thread. Where that shows nothing, it limits how long other callers wait
for one function.
"""

import concurrent.futures
import concurrent.futures.thread
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from grpc_idempotency.errors import StoreUnavailable, TransactionMisuse
from grpc_idempotency.stores._calls.nesting import MISUSE
from grpc_idempotency.stores._calls.requests import Request
from grpc_idempotency.stores._sqlite.guard import Guard
from grpc_idempotency.stores._sqlite.requests import Flush

_LOOK = 0.1
"""Seconds between two looks at a function that other callers wait for."""
_LEAST_PATIENCE = 1.0
"""Seconds that other callers wait for a function at least, however short ``busy_timeout`` is."""
_WORK = concurrent.futures.thread._WorkItem.run.__code__  # noqa: SLF001 - no public API tells which thread works on a future


class Watch:
    """Watches the functions of one connection while other callers wait for them."""

    def __init__(
        self,
        guard: Guard,
        withdraw: Callable[[Callable[[Request[Any]], bool]], Sequence[Request[Any]]],
        patience: float,
        refuse: Callable[[Request[Any], Exception], None],
    ) -> None:
        self.guard = guard
        self._withdraw = withdraw
        self._patience = max(patience, _LEAST_PATIENCE)
        self._refuse = refuse
        self._awake = False

    def set(self) -> None:
        """Starts the watch, if it is not running: a caller waits while a function runs."""
        if self._awake:
            return
        self._awake = True
        try:
            threading.Thread(target=self._keep, name="grpc-idempotency-watch", daemon=True).start()
        except RuntimeError:  # no thread can be started now: the next call tries again
            self._awake = False

    def _keep(self) -> None:
        view, since = self.guard.view, time.monotonic()
        while True:
            time.sleep(_LOOK)
            now = self.guard.view
            if now is None:
                # A call after the next line starts a new watch. A call before it has found this watch running, perhaps
                # for a view that began after the look above: so look once more.
                self._awake = False
                if self.guard.view is None:
                    return
                self._awake = True
            elif now is view:
                self._look(time.monotonic() - since)
            else:
                view, since = now, time.monotonic()

    def _look(self, lasts: float) -> None:
        frames = _frames()
        stacks = [list(_stack(frames.get(thread))) for thread in _waited_for(self.guard.thread, frames)]
        if stacks:
            for request in self._withdraw(lambda one: _asks(one, stacks)):
                self._refuse(request, TransactionMisuse(MISUSE))
        if lasts > self._patience:
            for request in self._withdraw(lambda one: not isinstance(one, Flush)):
                self._refuse(request, StoreUnavailable(f"a transaction's function has been running for {lasts:.1f} s"))


def _frames() -> dict[int, FrameType]:
    """Returns the current frame of each thread.

    Up to Python 3.11 the interpreter holds a lock while it collects the frames. A garbage collection during that time
    may switch to another thread. If that thread starts a thread, it waits for this lock while it holds the GIL: a
    deadlock of the whole process (CPython's gh-106883). So the garbage collector is disabled during that time.
    """
    with _no_collection:
        enabled = gc.isenabled()
        gc.disable()
        try:
            return sys._current_frames()  # noqa: SLF001 - this is what it is documented for
        finally:
            if enabled:
                gc.enable()


_no_collection = threading.Lock()
"""Held by the thread that has disabled the collector, so that no other thread takes that for the embedder's choice."""


def _waited_for(thread: int | None, frames: dict[int, FrameType]) -> set[int]:
    """Returns the threads that a thread waits for, to end or to answer, directly or through other threads."""
    found: set[int] = set()
    look = [thread]
    while look:
        for frame in _stack(frames.get(look.pop() or 0)):
            new = set(_blockers(frame, frames)) - found
            found |= new
            look += new
    return found


def _blockers(frame: FrameType, frames: dict[int, FrameType]) -> Iterator[int]:
    if frame.f_code is threading.Thread.join.__code__:
        ident = frame.f_locals["self"].ident
        if ident is not None:
            yield ident
    elif frame.f_code is concurrent.futures.Future.result.__code__:
        future = frame.f_locals["self"]
        for thread, top in frames.items():
            if any(one.f_code is _WORK and one.f_locals["self"].future is future for one in _stack(top)):
                yield thread


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _asks(request: Request[Any], stacks: list[list[FrameType]]) -> bool:
    """Returns ``True`` if one of these threads waits for the request's answer, or runs the loop that awaits it."""
    loop = request.loop
    return any(
        value is request or (loop is not None and value is loop)
        for stack in stacks
        for frame in stack
        for value in list(frame.f_locals.values())
    )
