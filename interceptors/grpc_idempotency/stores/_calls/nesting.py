"""Calls of a store from within a transaction's function: they would wait for the function, and it for them (5.1)."""

import contextvars
from typing import Protocol

from grpc_idempotency.errors import TransactionMisuse

MISUSE = "a store must not be called within a transaction's function, which it would wait for: use the function's db"


class View(Protocol):
    """The function's view of the database."""

    over: bool
    """Whether the function has ended."""


inside: contextvars.ContextVar[View | None] = contextvars.ContextVar("grpc_idempotency_inside", default=None)
"""The view of the function that the present context is that of."""


def refuse_inside() -> None:
    """Raises :class:`TransactionMisuse` in the context of a function that is running.

    The context also follows the function into the tasks, loops and threads of asyncio. A thread that the function
    starts by itself has a context that knows nothing.
    """
    view = inside.get()
    if view is not None and not view.over:
        raise TransactionMisuse(MISUSE)
