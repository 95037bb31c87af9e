"""Calls of a store from threads that a transaction's function starts, or hands work to, and waits for (5.1).

They come from a context that knows nothing of the function, so they are not refused as those in its own context are. So
a call that is made while a function runs has a watch set. It looks at what the function's thread is blocked by; and
where that does not tell, it bounds how long others wait for one function.
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
from grpc_idempotency.stores._calls.requests import Request, Threads
from grpc_idempotency.stores._sqlite.guard import Guard
from grpc_idempotency.stores._sqlite.requests import Flush

_LOOK = 0.1
"""Seconds between two looks at a function that others wait for."""
_LEAST_PATIENCE = 1.0
"""Seconds that others wait for a function at least, however short ``busy_timeout`` is."""
_WORK = concurrent.futures.thread._WorkItem.run.__code__  # noqa: SLF001 - nothing public tells who works on a future


class Watch:
    """Watches over the functions of one connection while others wait for them."""

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
        """Somebody waits while a function is running."""
        if self._awake:
            return
        self._awake = True
        try:
            threading.Thread(target=self._keep, name="grpc-idempotency-watch", daemon=True).start()
        except RuntimeError:  # there can be no more threads now: whoever asks next tries again
            self._awake = False

    def _keep(self) -> None:
        view, since = self.guard.view, time.monotonic()
        while True:
            time.sleep(_LOOK)
            now = self.guard.view
            if now is None:
                # Whoever asks from here on finds nobody awake; whoever asked before that is seen now.
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
    """Returns where each thread is.

    Up to Python 3.11 the interpreter keeps a lock while it finds out. A garbage collection meanwhile may let another
    thread go on, and one that starts a thread then waits for that lock with the interpreter's own: a deadlock of the
    whole process (CPython's gh-106883). So there is no collection meanwhile.
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
"""Held by the thread that has switched the collector off, so that no other takes that for the embedder's wish."""


def _waited_for(thread: int | None, frames: dict[int, FrameType]) -> set[int]:
    """The threads whose end, or whose answer, a thread is blocked by, be it by way of others."""
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
    """Whether one of these threads waits for this answer, or runs the loop in which it is waited for."""
    loop = None if isinstance(request.loop, Threads) else request.loop
    return any(
        value is request or (loop is not None and value is loop)
        for stack in stacks
        for frame in stack
        for value in list(frame.f_locals.values())
    )
