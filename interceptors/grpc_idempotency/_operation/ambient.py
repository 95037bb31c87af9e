"""Who has an operation: its handler and its steps, and no task or thread that these start (5.1).

A context variable goes on into every task that is made, and into threads that copy contexts. So it names the holder
too: the task of an ``async def`` handler or of one of its steps, the thread of a ``def`` one.
"""

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_holder: contextvars.ContextVar["Holder | None"] = contextvars.ContextVar("grpc_idempotency_operation", default=None)


class Holder:
    """A handler, a step or a transaction's function that has an operation."""

    __slots__ = ("_owner", "operation", "over", "within")

    def __init__(self, operation: Any, within: str | None = None, *, anywhere: bool = False) -> None:
        self.operation = operation
        self.within = within
        """What it is in words, where it is not the handler itself."""
        self.over = False
        """Whether the step has ended."""
        self._owner: object = None if anywhere else self._caller()

    @property
    def asks(self) -> bool:
        """Whether the calling task or thread is the holder, and not one that has only got its context."""
        if self.over or (self.within is None and self.operation.over):
            return False
        return self._owner is None or self._owner == self._caller()

    def _caller(self) -> object:
        return _task() if self.operation.awaited else threading.get_ident()


def enter(operation: Any) -> None:
    """Gives the operation, or ``None``, to the calling task or thread as its handler."""
    _holder.set(None if operation is None else Holder(operation))


@contextmanager
def holding(operation: Any, step: str) -> Iterator[None]:
    """Gives the operation to the calling task or thread as its step of this name, for a time."""
    holder = Holder(operation, f"step {step!r}")
    token = _holder.set(holder)
    try:
        yield
    finally:
        holder.over = True
        _holder.reset(token)


def lend(context: contextvars.Context, operation: Any) -> None:
    """Gives the operation to a transaction's function, which runs in this context on the database's thread."""
    context.run(_holder.set, Holder(operation, "a transaction's function", anywhere=True))


def held() -> Holder | None:
    """The holder, where the calling task or thread is it."""
    holder = _holder.get()
    return holder if holder is not None and holder.asks else None


def inherited() -> Holder | None:
    """The holder, where the calling task or thread is it or was started by it."""
    return _holder.get()


def _task() -> object:
    """The asyncio task that runs, or something that is none."""
    try:
        return asyncio.current_task()
    except RuntimeError:  # this thread has no loop
        return _NO_TASK


_NO_TASK = object()
