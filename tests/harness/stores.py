"""A real store that can be made to fail, and its twin for threads."""

import collections
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any, TypeVar

import grpc_idempotency
from grpc_idempotency import Database, Outcome, Record, StoreUnavailable
from grpc_idempotency.aio import SQLiteStore
from grpc_idempotency.records import Claim, Step, Swept
from grpc_idempotency.store import running_operation
from grpc_idempotency.stores.memory import AsyncMemoryStore

from .waiting import Gate

T = TypeVar("T")


class Faults:
    """What goes wrong with a store: its calls fail for as long as their names are in ``down``."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.asked: collections.Counter[str] = collections.Counter()
        self.failures: collections.Counter[str] = collections.Counter()
        self.failed: dict[str, Gate] = collections.defaultdict(Gate)
        self.lands = False
        """Whether a claim that fails takes effect all the same, and nobody can know."""
        self.claims: list[Claim] = []
        """All that were asked for."""

    def check(self, name: str, landed: bool | None = False) -> None:
        self.asked[name] += landed is False
        if name in self.down:
            self.failures[name] += 1
            self.failed[name].open()
            raise StoreUnavailable(f"{name} is down, for the test", landed=landed)

    def before_transaction(self) -> None:
        operation = running_operation()
        if operation is not None and operation.claim is not None:
            self.claims.append(operation.claim)  # it is written with the transaction's own commit
        self.check("transaction")

    def before(self, claim: Claim) -> None:
        self.claims.append(claim)
        if not self.lands:
            self.check("claim")


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

    async def claim(self, claim: Claim, *, over: bytes | None = None) -> Record | None:
        self.before(claim)
        found = await super().claim(claim, over=over)
        self.check("claim", landed=None)
        return found

    async def renew(self, name: bytes, fence: bytes, lease: timedelta) -> bool:
        self.check("renew")
        return await super().renew(name, fence, lease)

    async def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> datetime | None:
        self.check("complete")
        return await super().complete(name, fence, outcome, ttl)

    async def complete_unclaimed(self, claim: Claim, outcome: Outcome, ttl: timedelta) -> datetime | Record:
        self.claims.append(claim)
        self.check("complete")
        return await super().complete_unclaimed(claim, outcome, ttl)

    async def release(self, name: bytes, fence: bytes) -> bool:
        self.check("release")
        return await super().release(name, fence)

    async def hold(self, name: bytes, fence: bytes, reason: str, *, lapsed_only: bool = False) -> bool:
        self.check("hold")
        return await super().hold(name, fence, reason, lapsed_only=lapsed_only)

    async def wait(self, name: bytes, fence: bytes, delay: timedelta, tries: int, undo_tries: int) -> bool:
        self.check("wait")
        return await super().wait(name, fence, delay, tries, undo_tries)

    async def record_step(self, name: bytes, fence: bytes, step: Step) -> bool:
        self.check("record_step")
        return await super().record_step(name, fence, step)

    def transaction(
        self, fn: Callable[[Database], T], *, step: Callable[[T], Step] | None = None
    ) -> Coroutine[Any, Any, T]:
        """For a handler: on a ``grpc.server`` it blocks the handler's thread, as the threads' store does."""
        if self.twin is not None:
            return _blocked(self.twin, fn, step)
        self.before_transaction()
        return super().transaction(fn, step=step)

    async def get(self, name: bytes) -> Record | None:
        self.check("get")
        return await super().get(name)

    async def sweep(self, limit: int = 500) -> Swept:
        self.check("sweep")
        return await super().sweep(limit)


async def _blocked(twin: "FlakyTwin", fn: Callable[[Database], T], step: Callable[[T], Step] | None) -> T:
    return twin.transaction(fn, step=step)


class FlakyTwin(grpc_idempotency.SQLiteStore):
    """The threads' store on the same file, which fails when the other one would."""

    def __init__(self, path: Any, flaky: FlakyStore, options: dict[str, Any]) -> None:
        super().__init__(path, **options)
        self._flaky = flaky

    def claim(self, claim: Claim, *, over: bytes | None = None) -> Record | None:
        self._flaky.before(claim)
        found = super().claim(claim, over=over)
        self._flaky.check("claim", landed=None)
        return found

    def renew(self, name: bytes, fence: bytes, lease: timedelta) -> bool:
        self._flaky.check("renew")
        return super().renew(name, fence, lease)

    def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> datetime | None:
        self._flaky.check("complete")
        return super().complete(name, fence, outcome, ttl)

    def complete_unclaimed(self, claim: Claim, outcome: Outcome, ttl: timedelta) -> datetime | Record:
        self._flaky.claims.append(claim)
        self._flaky.check("complete")
        return super().complete_unclaimed(claim, outcome, ttl)

    def release(self, name: bytes, fence: bytes) -> bool:
        self._flaky.check("release")
        return super().release(name, fence)

    def hold(self, name: bytes, fence: bytes, reason: str, *, lapsed_only: bool = False) -> bool:
        self._flaky.check("hold")
        return super().hold(name, fence, reason, lapsed_only=lapsed_only)

    def wait(self, name: bytes, fence: bytes, delay: timedelta, tries: int, undo_tries: int) -> bool:
        self._flaky.check("wait")
        return super().wait(name, fence, delay, tries, undo_tries)

    def record_step(self, name: bytes, fence: bytes, step: Step) -> bool:
        self._flaky.check("record_step")
        return super().record_step(name, fence, step)

    def transaction(self, fn: Callable[[Database], T], *, step: Callable[[T], Step] | None = None) -> T:
        self._flaky.before_transaction()
        return super().transaction(fn, step=step)

    def get(self, name: bytes) -> Record | None:
        self._flaky.check("get")
        return super().get(name)

    def sweep(self, limit: int = 500) -> Swept:
        self._flaky.check("sweep")
        return super().sweep(limit)


class FlakyMemory(AsyncMemoryStore, Faults):
    """A store in memory with faults."""

    def __init__(self) -> None:
        super().__init__()
        Faults.__init__(self)

    async def claim(self, claim: Claim, *, over: bytes | None = None) -> Record | None:
        self.before(claim)
        return await super().claim(claim, over=over)

    async def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> datetime | None:
        self.check("complete")
        return await super().complete(name, fence, outcome, ttl)

    async def release(self, name: bytes, fence: bytes) -> bool:
        self.check("release")
        return await super().release(name, fence)

    async def get(self, name: bytes) -> Record | None:
        self.check("get")
        return await super().get(name)


class FlakyMemoryTwin(grpc_idempotency.MemoryStore):
    """The threads' store on the same records, which fails when the other one would."""

    def __init__(self, flaky: FlakyMemory) -> None:
        super().__init__()
        self._opened = flaky._opened
        self._flaky = flaky

    def claim(self, claim: Claim, *, over: bytes | None = None) -> Record | None:
        self._flaky.before(claim)
        return super().claim(claim, over=over)

    def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> datetime | None:
        self._flaky.check("complete")
        return super().complete(name, fence, outcome, ttl)

    def release(self, name: bytes, fence: bytes) -> bool:
        self._flaky.check("release")
        return super().release(name, fence)

    def get(self, name: bytes) -> Record | None:
        self._flaky.check("get")
        return super().get(name)


def for_threads(store: Any) -> Any:
    """Returns the store that a ``grpc.server`` gets: of a store for asyncio, its twin on the same records."""
    if isinstance(store, FlakyStore):
        return store.for_threads()
    if isinstance(store, FlakyMemory):
        return FlakyMemoryTwin(store)
    if isinstance(store, AsyncMemoryStore):
        twin = grpc_idempotency.MemoryStore()
        twin._opened = store._opened
        return twin
    return store
