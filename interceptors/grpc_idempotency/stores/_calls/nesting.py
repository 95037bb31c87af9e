"""Refuses calls of a store within a transaction's function (5.1): call and function would wait for each other."""

import contextvars
from typing import Protocol

from grpc_idempotency.errors import TransactionMisuse

MISUSE = "a store must not be called within a transaction's function, which it would wait for: use the function's db"


class View(Protocol):
    """The database as a transaction's function sees it."""

    @property
    def ended(self) -> bool:
        """True once the function has ended."""


inside: contextvars.ContextVar[View | None] = contextvars.ContextVar("grpc_idempotency_inside", default=None)
"""The view of the transaction's function that runs in the present context."""


def refuse_inside() -> None:
    """Raises :class:`TransactionMisuse` in the context of a transaction's function that is running.

    The tasks, loops and threads that the function starts through asyncio inherit the context. A thread that it starts
    by itself does not.
    """
    view = inside.get()
    if view is not None and not view.ended:
        raise TransactionMisuse(MISUSE)
