"""Real stores that can be made to fail, and their twins for threads."""

import collections
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import grpc_idempotency
from grpc_idempotency import Database, StoreUnavailable
from grpc_idempotency.aio import PostgresStore, SQLiteStore
from grpc_idempotency.records import Claim, Step
from grpc_idempotency.stores._calls import requests
from grpc_idempotency.stores.memory import AsyncMemoryStore
from grpc_idempotency.transactions import running_operation

from .waiting import Gate

T = TypeVar("T")

_NAMES: dict[type, str] = {
    requests.ClaimRequest: "claim",
    requests.CompleteRequest: "complete",
    requests.UnclaimedRequest: "complete",
    requests.RenewRequest: "renew",
    requests.ReleaseRequest: "release",
    requests.ReleaseLapsedRequest: "release",
    requests.HoldRequest: "hold",
    requests.WaitRequest: "wait",
    requests.StepRequest: "record_step",
    requests.GetRequest: "get",
    requests.StandingRequest: "standing",
    requests.SweepRequest: "sweep",
    requests.CountRequest: "count",
}
"""The calls that can be made to fail, besides ``transaction``."""


class Faults:
    """What goes wrong with a store: its calls fail for as long as their names are in ``down``."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.asked: collections.Counter[str] = collections.Counter()
        self.failures: collections.Counter[str] = collections.Counter()
        self.failed: dict[str, Gate] = collections.defaultdict(Gate)
        self.lands = False
        """True if a claim that fails takes effect all the same, and nobody can know."""
        self.claims: list[Claim] = []
        """All that were asked for."""
        self.names: tuple[bytes, ...] = ()
        """Those in the last query for standings."""

    def check(self, name: str, landed: bool | None = False) -> None:
        if name in self.down:
            self.failures[name] += 1
            self.failed[name].open()
            raise StoreUnavailable(f"{name} is down, for the test", landed=landed)

    def before(self, request: object) -> None:
        """Notes a request, and raises if it is to fail."""
        name = _NAMES.get(type(request))
        if isinstance(request, requests.ClaimRequest | requests.UnclaimedRequest):
            self.claims.append(request.claim)
        if isinstance(request, requests.StandingRequest):
            self.names = request.names
        if name is not None:
            self.asked[name] += 1
            if not (name == "claim" and self.lands):
                self.check(name)

    def after(self, request: object) -> None:
        """Raises if a request that has taken effect is to fail."""
        if isinstance(request, requests.ClaimRequest):
            self.check("claim", landed=None)

    def before_transaction(self) -> None:
        operation = running_operation()
        if operation is not None and operation.claim is not None:
            self.claims.append(operation.claim)  # it is written with the transaction's own commit
        self.asked["transaction"] += 1
        self.check("transaction")


async def _asked(faults: Faults, ask: Callable[..., Any], request: Any, opened: Any) -> Any:
    faults.before(request)
    reply = await ask(request, opened)
    faults.after(request)
    return reply


def _asked_blocking(faults: Faults, ask: Callable[..., Any], request: Any, opened: Any) -> Any:
    faults.before(request)
    reply = ask(request, opened)
    faults.after(request)
    return reply


class FlakyStore(SQLiteStore, Faults):
    """An SQLite store with faults.

    On a ``grpc.server`` its :attr:`twin` takes its place there: the same file, the same faults.
    """

    def __init__(self, path: Any, **options: Any) -> None:
        super().__init__(path, **options)
        Faults.__init__(self)
        self.twin: FlakyTwin | None = None
        self._file, self._options = path, options

    def for_threads(self) -> "FlakyTwin":
        self.twin = FlakyTwin(self._file, self, self._options)
        return self.twin

    def _ask(self, request: Any, opened: Any = None) -> Any:
        return _asked(self, super()._ask, request, opened)

    def transaction(
        self, fn: Callable[[Database], T], *, step: Callable[[T], Step] | None = None
    ) -> Coroutine[Any, Any, T]:
        """For a handler: on a ``grpc.server`` it blocks the handler's thread, as the threads' store does."""
        if self.twin is not None:
            return _blocked(self.twin, fn, step)
        self.before_transaction()
        return super().transaction(fn, step=step)


async def _blocked(
    twin: "FlakyTwin | FlakyPostgresTwin", fn: Callable[[Database], T], step: Callable[[T], Step] | None
) -> T:
    return twin.transaction(fn, step=step)


class FlakyTwin(grpc_idempotency.SQLiteStore):
    """The threads' store on the same file, which fails when the other one would."""

    def __init__(self, path: Any, flaky: FlakyStore, options: dict[str, Any]) -> None:
        super().__init__(path, **options)
        self._flaky = flaky

    def _ask(self, request: Any, opened: Any = None) -> Any:
        return _asked_blocking(self._flaky, super()._ask, request, opened)

    def transaction(self, fn: Callable[[Database], T], *, step: Callable[[T], Step] | None = None) -> T:
        self._flaky.before_transaction()
        return super().transaction(fn, step=step)


class FlakyPostgres(PostgresStore, Faults):
    """A PostgreSQL store with faults."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        Faults.__init__(self)
        self.twin: FlakyPostgresTwin | None = None
        self._url, self._options = url, options

    def for_threads(self) -> "FlakyPostgresTwin":
        self.twin = FlakyPostgresTwin(self._url, self, self._options)
        return self.twin

    def _ask(self, request: Any, opened: Any = None) -> Any:
        return _asked(self, super()._ask, request, opened)

    def transaction(self, fn: Any, *, step: Any = None) -> Coroutine[Any, Any, Any]:
        """As that of :class:`FlakyStore`."""
        if self.twin is not None:
            return _blocked(self.twin, fn, step)
        self.before_transaction()
        return super().transaction(fn, step=step)


class FlakyPostgresTwin(grpc_idempotency.PostgresStore):
    """The threads' store on the same tables, which fails when the other one would."""

    def __init__(self, url: str, flaky: FlakyPostgres, options: dict[str, Any]) -> None:
        super().__init__(url, **options)
        self._flaky = flaky

    def _ask(self, request: Any, opened: Any = None) -> Any:
        return _asked_blocking(self._flaky, super()._ask, request, opened)

    def transaction(self, fn: Callable[[Database], T], *, step: Callable[[T], Step] | None = None) -> T:
        self._flaky.before_transaction()
        return super().transaction(fn, step=step)


class FlakyMemory(AsyncMemoryStore, Faults):
    """A store in memory with faults."""

    def __init__(self) -> None:
        super().__init__()
        Faults.__init__(self)

    def _ask(self, request: Any, opened: Any = None) -> Any:
        return _asked(self, super()._ask, request, opened)


class FlakyMemoryTwin(grpc_idempotency.MemoryStore):
    """The threads' store on the same records, which fails when the other one would."""

    def __init__(self, flaky: FlakyMemory) -> None:
        super().__init__()
        self._opened = flaky._opened
        self._flaky = flaky

    def _ask(self, request: Any, opened: Any = None) -> Any:
        return _asked_blocking(self._flaky, super()._ask, request, opened)


def for_threads(store: Any) -> Any:
    """Returns the store that a ``grpc.server`` gets: of a store for asyncio, its twin on the same records."""
    if isinstance(store, FlakyStore | FlakyPostgres):
        return store.for_threads()
    if isinstance(store, FlakyMemory):
        return FlakyMemoryTwin(store)
    if isinstance(store, AsyncMemoryStore):
        twin = grpc_idempotency.MemoryStore()
        twin._opened = store._opened
        return twin
    return store
