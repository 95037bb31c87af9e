"""Decides which operation a transaction belongs to, when the transaction is called (5.1)."""

import inspect
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

from grpc_idempotency.errors import TransactionMisuse
from grpc_idempotency.records import Step
from grpc_idempotency.stores._calls.requests import TransactionRequest
from grpc_idempotency.transactions import (
    Database,
    RunningOperation,
    bind_operation,
    inherited_operation,
    running_operation,
)

T = TypeVar("T")
_STRAYED = (
    "a task or thread that a handler has started has transactions of its own, and this one's function returned the "
    "response of the handler's method: its rows and the call's outcome would not be kept together. Call "
    "store.transaction in the handler itself; what it returns may be awaited in another task."
)


class Identified(Protocol):
    """A store that keeps its operations in a database."""

    @property
    def identity(self) -> str | None:
        """See :attr:`~grpc_idempotency.transactions.TransactionalStore.identity`."""


def is_unknown(store: Identified) -> bool:
    """True if the store has to be opened, before it can be told whether it holds the caller's operation."""
    operation = inherited_operation()
    return operation is not None and operation.store is not store and store.identity is None


class Caller:
    """The operations of the caller that makes it: of the handler itself, and of one that has started the caller."""

    def __init__(self) -> None:
        self._running = running_operation()
        self._inherited = inherited_operation()

    def operation(self, store: Identified) -> RunningOperation | None:
        """Returns the operation whose reply the caller may commit in the store's database; ``None`` if it has none.

        Raises:
            TransactionMisuse: The caller is a task or thread of a handler. What it commits is not the reply.
        """
        if self._running is None and _own(store, self._inherited) is not None:
            raise TransactionMisuse("only the handler itself can commit the reply, and not its tasks or threads")
        return _own(store, self._running)


def transacting(
    store: Identified, fn: Callable[[Database], Any], make_step: Callable[[Any], Step] | None
) -> TransactionRequest:
    """Makes the request for a transaction; in a keyed call of the store, with the call's outcome or a step in it.

    Raises:
        TransactionMisuse: The call has already committed its reply, or a step was given outside of a keyed call of this
            store.
    """
    operation = running_operation()
    if operation is not None and operation.store is not store:
        operation = _own(store, operation)
    if operation is None and (stray := _own(store, inherited_operation())) is not None:
        fn = _without_reply(fn, stray)
    if operation is not None and operation.committed is not None:
        raise TransactionMisuse("a keyed call has one transaction: its first has committed the reply already")
    if operation is None and make_step is not None:
        raise TransactionMisuse("a step can only be kept in a keyed call whose record is in this very database")
    request = TransactionRequest(fn, operation, make_step)
    if operation is not None:
        bind_operation(request.context, operation)
    return request


def _own(store: Identified, operation: RunningOperation | None) -> RunningOperation | None:
    """Returns the operation if the store's database holds its record, else ``None``."""
    if operation is None:
        return None
    if operation.store is store:
        return operation
    identity = store.identity
    return operation if identity is not None and getattr(operation.store, "identity", None) == identity else None


def _without_reply(fn: Callable[[Database], T], operation: RunningOperation) -> Callable[[Database], T]:
    """Wraps the function of a transaction that a handler's task or thread makes, which must not commit the reply.

    A wrapper may have put the handler itself into a task, as ``asyncio.wait_for`` did before Python 3.12. Then the rows
    would be kept without the outcome, and nobody would notice.
    """

    def checked(value: T) -> T:
        if not operation.ended and operation.accepts(value):
            raise TransactionMisuse(_STRAYED)
        return value

    async def guarded_async(db: Any) -> Any:
        return checked(await cast(Any, fn)(db))

    def guarded(db: Database) -> T:
        return checked(fn(db))

    return cast(Any, guarded_async) if inspect.iscoroutinefunction(fn) else guarded
