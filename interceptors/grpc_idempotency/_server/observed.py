"""A store whose calls are told to observers. It takes the store's place only if an observer wants that."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from grpc_idempotency._server.clock import now
from grpc_idempotency._server.observers import Observers
from grpc_idempotency.events import StoreCalled
from grpc_idempotency.operator_store import AsyncOperatorStore
from grpc_idempotency.store import AsyncStore
from grpc_idempotency.transactions import AsyncOneCommitStore, AsyncTransactionalStore

T = TypeVar("T")

_CALLS = frozenset(
    name
    for contract in (AsyncStore, AsyncOperatorStore, AsyncTransactionalStore, AsyncOneCommitStore)
    for name, value in vars(contract).items()
    if callable(value) and not name.startswith("_")
)
"""The names of the calls that the contract of stores has."""


class _Observed:
    """Passes on everything that it is asked for. The calls of the contract are told when they are answered.

    Args:
        store: The store.
        tell: Tells an event.
    """

    def __init__(self, store: Any, tell: Callable[[StoreCalled], None]) -> None:
        self._store = store
        self._tell = tell

    def __getattr__(self, name: str) -> Any:
        """Returns an attribute of the store. Called once for each of its calls, since the result is kept."""
        value = getattr(self._store, name)
        if name not in _CALLS:
            return value
        call = self.__dict__[name] = self._telling(name, value)
        return call

    def _telling(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        raise NotImplementedError

    def _answered(self, call: str, began: float, error: Exception | None) -> None:
        self._tell(StoreCalled(call=call, seconds=now() - began, error=error))


class _OnThreads(_Observed):
    """A store whose calls block."""

    def _telling(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def told(*args: Any, **options: Any) -> Any:
            began = now()
            try:
                value = call(*args, **options)
            except Exception as exc:
                self._answered(name, began, exc)
                raise
            self._answered(name, began, None)
            return value

        return told


class _OnLoop(_Observed):
    """A store whose calls are awaited. A call whose wait is cancelled is not told, since nobody knows its answer."""

    def _telling(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def told(*args: Any, **options: Any) -> Any:
            began = now()
            try:
                reply = call(*args, **options)
            except Exception as exc:
                self._answered(name, began, exc)
                raise
            if not asyncio.isfuture(reply):
                return self._awaited(name, began, reply)

            def answered(future: "asyncio.Future[Any]") -> None:
                if not future.cancelled():
                    error = future.exception()
                    self._answered(name, began, error if isinstance(error, Exception) else None)

            reply.add_done_callback(answered)
            return reply

        return told

    async def _awaited(self, name: str, began: float, reply: Awaitable[T]) -> T:
        try:
            value = await reply
        except Exception as exc:
            self._answered(name, began, exc)
            raise
        self._answered(name, began, None)
        return value


def observed(store: Any, observers: Observers, *, awaited: bool) -> Any:
    """Returns the store as the interceptor uses it: with calls that are told, if an observer wants that.

    Args:
        store: The store.
        observers: The observers.
        awaited: True if the store's calls are awaited.
    """
    tell = observers.store_called
    if tell is None:
        return store
    return (_OnLoop if awaited else _OnThreads)(store, tell)
