"""What a handler, and a store's transaction, may ask of the operation that they run in."""

import contextvars
from collections.abc import Callable
from datetime import timedelta

from grpc_idempotency._scope import enter_scope, scope_of
from grpc_idempotency.records import Outcome

_current: contextvars.ContextVar["Operation | None"] = contextvars.ContextVar(
    "grpc_idempotency_operation", default=None
)


class Operation:
    """One run of a keyed call: claimed, under a fence, its outcome not yet stored."""

    __slots__ = ("_seal", "attempt", "committed", "fence", "method", "name", "scope", "store", "ttl")

    def __init__(
        self,
        *,
        name: bytes,
        method: str,
        fence: bytes,
        attempt: int,
        store: object,
        ttl: timedelta,
        seal: Callable[[object], Outcome],
    ) -> None:
        self.name = name
        """16 bytes: the digest that names the operation."""
        self.method = method
        """The full method name, ``/package.Service/Method``."""
        self.fence = fence
        """16 bytes: this run's own fence, given with every write about the operation."""
        self.attempt = attempt
        """1 in the first run, more when a run before it was cut short."""
        self.store = store
        """The store that holds the operation's record."""
        self.ttl = ttl
        """How long its outcome will be kept."""
        self.committed: Outcome | None = None
        """The outcome that a transaction of this run has committed, if one has. Set by the store."""
        self.scope = scope_of(name)
        """Where calls to other services get their keys from, outside of steps (5.3)."""
        self._seal = seal

    def seal(self, reply: object) -> Outcome:
        """The outcome that the call has if ``reply`` is its reply: serialized, with the status and trailers set so far.

        For a store's ``transaction``: an outcome whose status is not OK must be rolled back, not committed.
        """
        return self._seal(reply)


def current_operation() -> Operation | None:
    """The operation that the calling handler runs in; ``None`` in an un-keyed call and outside of handlers."""
    return _current.get()


def enter(operation: Operation | None) -> "contextvars.Token[Operation | None]":
    """Makes ``operation`` the current one in this context, and its scope that of calls (for the interceptors)."""
    enter_scope(operation.scope if operation is not None else None)
    return _current.set(operation)
