"""The holder of an operation: its handler or one of its steps, but no task or thread that these start (5.1).

Every new task, and every thread that copies a context, inherits a context variable. So the variable names the holder
too: the task of an ``async def`` handler or of one of its steps, or the thread of a ``def`` one.
"""

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

HOLDER: contextvars.ContextVar["Holder | None"] = contextvars.ContextVar("grpc_idempotency_operation", default=None)
"""The holder that the calling task or thread is, or that has started it."""


@dataclass(slots=True, eq=False)
class Holder:
    """A handler, a step or a transaction's function that has an operation."""

    operation: Any
    owner: object
    """The task of an ``async def`` handler or step, or the id of a ``def`` one's thread.

    ``None``: every task and thread with this context.
    """
    within: str | None = None
    """The holder in words, if it is not the handler itself."""
    ended: bool = False
    """True once the step has ended."""

    @property
    def asks(self) -> bool:
        """True if the calling task or thread is the holder, and has not only inherited its context."""
        if self.ended or (self.within is None and self.operation.ended):
            return False
        return self.owner is None or self.owner == caller_of(self.operation)


def caller_of(operation: Any) -> object:
    """Returns the identity of the caller: its task in the operation of an ``async def`` handler, else its thread."""
    if not operation.awaited:
        return threading.get_ident()
    try:
        return asyncio.current_task()
    except RuntimeError:  # this thread has no loop
        return _NO_TASK


@contextmanager
def holding(operation: Any, step: str) -> Iterator[None]:
    """Makes the calling task or thread the holder of the operation, as its step of this name, in a ``with`` block."""
    holder = Holder(operation, caller_of(operation), f"step {step!r}")
    token = HOLDER.set(holder)
    try:
        yield
    finally:
        holder.ended = True
        HOLDER.reset(token)


_NO_TASK = object()
