"""Who has an operation: its handler and its steps, and no task or thread that these start (5.1).

A context variable goes on into every task that is made, and into threads that copy contexts. So it names the holder
too: the task of an ``async def`` handler or of one of its steps, the thread of a ``def`` one.
"""

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

HOLDER: contextvars.ContextVar["Holder | None"] = contextvars.ContextVar("grpc_idempotency_operation", default=None)


@dataclass(slots=True, eq=False)
class Holder:
    """A handler, a step or a transaction's function that has an operation."""

    operation: Any
    owner: object
    """The task of an ``async def`` handler or step, the id of a ``def`` one's thread; ``None``: whoever has this."""
    within: str | None = None
    """What it is in words, where it is not the handler itself."""
    over: bool = False
    """True once the step has ended."""

    @property
    def asks(self) -> bool:
        """True if the calling task or thread is the holder, and not one that has only got its context."""
        if self.over or (self.within is None and self.operation.over):
            return False
        if self.owner is None:
            return True
        if not self.operation.awaited:
            return self.owner == threading.get_ident()
        try:
            return self.owner is asyncio.current_task()
        except RuntimeError:  # this thread has no loop
            return False


def caller_of(operation: Any) -> object:
    """Returns what tells the calling task from others, or the calling thread: the operation's kind decides."""
    return _task() if operation.awaited else threading.get_ident()


@contextmanager
def holding(operation: Any, step: str) -> Iterator[None]:
    """Gives the operation to the calling task or thread as its step of this name, for a time."""
    holder = Holder(operation, caller_of(operation), f"step {step!r}")
    token = HOLDER.set(holder)
    try:
        yield
    finally:
        holder.over = True
        HOLDER.reset(token)


def lend(context: contextvars.Context, operation: Any) -> None:
    """Gives the operation to a transaction's function, which runs in this context on the database's thread."""
    context.run(HOLDER.set, Holder(operation, None, "a transaction's function"))


def held() -> Holder | None:
    """The holder, where the calling task or thread is it."""
    holder = HOLDER.get()
    return holder if holder is not None and holder.asks else None


def inherited() -> Holder | None:
    """The holder, where the calling task or thread is it or was started by it."""
    return HOLDER.get()


def _task() -> object:
    """The asyncio task that runs, or something that is none."""
    try:
        return asyncio.current_task()
    except RuntimeError:  # this thread has no loop
        return _NO_TASK


_NO_TASK = object()
