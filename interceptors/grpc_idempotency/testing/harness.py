"""Harnesses, through which the suites use the store that they test."""

import asyncio
import contextvars
import functools
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Protocol, cast, overload

from grpc_idempotency.operator_store import AsyncOperatorStore, OperatorStore
from grpc_idempotency.store import AsyncStore, Store
from grpc_idempotency.transactions import (
    AsyncOneCommitStore,
    AsyncTransactionalStore,
    Database,
    OneCommitStore,
    TransactionalStore,
    bind_operation,
    running_operation,
)


class AsyncStoreHarness(Protocol):
    """Makes the stores under test and controls their clock. At first the database is empty, and time stands still."""

    async def store(self) -> AsyncStore:
        """Makes a further store on the same database. The harness closes it at the end.

        Returns:
            The store, not opened yet.
        """

    async def elapse(self, duration: timedelta) -> None:
        """Moves the database's clock forward.

        Args:
            duration: By how much, exactly.
        """


class AsyncOperatorHarness(AsyncStoreHarness, Protocol):
    """The harness of the suite of operators' calls."""

    async def store(self) -> AsyncOperatorStore:
        """See :meth:`AsyncStoreHarness.store`."""


class AsyncTransactionHarness(AsyncStoreHarness, Protocol):
    """The harness of the suite of transactions."""

    placeholder: str
    """The engine's notation of a parameter in a statement, such as ``?`` or ``%s``."""

    async def store(self) -> AsyncTransactionalStore:
        """See :meth:`AsyncStoreHarness.store`."""


class AsyncOneCommitHarness(AsyncTransactionHarness, Protocol):
    """The harness of the suite of transactions whose operations were not claimed."""

    async def store(self) -> AsyncOneCommitStore:
        """See :meth:`AsyncStoreHarness.store`."""


class _InThreads:
    def __init__(self, store: Any) -> None:
        self.blocking = store

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.blocking, name)
        return functools.partial(_in_thread, value) if callable(value) else value


class _TransactionsInThreads(_InThreads):
    def transaction(self, fn: Callable[[Database], Any], **options: Any) -> Coroutine[Any, Any, Any]:
        """Runs the transaction in a thread, with the caller's operation."""
        context, operation = contextvars.copy_context(), running_operation()
        if operation is not None:
            bind_operation(context, operation)
        return _in_thread(context.run, self.blocking.transaction, fn, **options)


async def _in_thread(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Runs a call in a thread. If the caller is cancelled, it waits for the call's end: a thread can't be cancelled."""
    running = asyncio.ensure_future(asyncio.to_thread(call, *args, **options))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


@overload
def in_threads(store: OneCommitStore) -> AsyncOneCommitStore: ...
@overload
def in_threads(store: TransactionalStore) -> AsyncTransactionalStore: ...
@overload
def in_threads(store: OperatorStore) -> AsyncOperatorStore: ...
@overload
def in_threads(store: Store) -> AsyncStore: ...
def in_threads(store: Any) -> Any:
    """Wraps a store that blocks into one that the suites can test.

    Args:
        store: A store for ``grpc.server``.

    Returns:
        A store with the same calls, each of which runs in a thread of its own.
    """
    return cast(Any, (_TransactionsInThreads if hasattr(store, "transaction") else _InThreads)(store))


def unwrapped(store: object) -> object:
    """Returns the store that :func:`in_threads` has wrapped, or else the store itself."""
    return store.blocking if isinstance(store, _InThreads) else store
