"""A real store that can be made to fail."""

import collections
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from grpc_idempotency import Database, Outcome, Record, StoreUnavailable
from grpc_idempotency.aio import SQLiteStore
from grpc_idempotency.records import Claim, Step

from .handlers import Gate

T = TypeVar("T")


class FlakyStore(SQLiteStore):
    """An SQLite store whose calls fail for as long as their names are in ``down``."""

    def __init__(self, path: Any, **options: Any) -> None:
        super().__init__(path, **options)
        self.down: set[str] = set()
        self.asked: collections.Counter[str] = collections.Counter()
        self.failures: collections.Counter[str] = collections.Counter()
        self.failed: dict[str, Gate] = collections.defaultdict(Gate)
        self.lands = False
        """Whether a claim that fails takes effect all the same, and nobody can know."""

    def _check(self, name: str, landed: bool | None = False) -> None:
        self.asked[name] += landed is False
        if name in self.down:
            self.failures[name] += 1
            self.failed[name].open()
            raise StoreUnavailable(f"{name} is down, for the test", landed=landed)

    async def claim(self, claim: Claim, *, over: bytes | None = None) -> Record | None:
        if not self.lands:
            self._check("claim")
        found = await super().claim(claim, over=over)
        self._check("claim", landed=None)
        return found

    async def renew(self, name: bytes, fence: bytes, lease: timedelta) -> bool:
        self._check("renew")
        return await super().renew(name, fence, lease)

    async def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> bool:
        self._check("complete")
        return await super().complete(name, fence, outcome, ttl)

    async def release(self, name: bytes, fence: bytes) -> bool:
        self._check("release")
        return await super().release(name, fence)

    async def hold(self, name: bytes, fence: bytes, reason: str, *, lapsed_only: bool = False) -> bool:
        self._check("hold")
        return await super().hold(name, fence, reason, lapsed_only=lapsed_only)

    async def wait(self, name: bytes, fence: bytes, delay: timedelta, tries: int) -> bool:
        self._check("wait")
        return await super().wait(name, fence, delay, tries)

    async def record_step(self, name: bytes, fence: bytes, step: Step) -> bool:
        self._check("record_step")
        return await super().record_step(name, fence, step)

    async def transaction(self, fn: Callable[[Database], T], *, step: Callable[[T], Step] | None = None) -> T:
        self._check("transaction")
        return await super().transaction(fn, step=step)

    async def get(self, name: bytes) -> Record | None:
        self._check("get")
        return await super().get(name)
