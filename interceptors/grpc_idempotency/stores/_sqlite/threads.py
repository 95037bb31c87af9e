"""The SQLite store for ``grpc.server``: the same requests to the same writer, for which threads wait."""

import concurrent.futures
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from grpc_idempotency.errors import StoreError, StoreUnavailable
from grpc_idempotency.records import Claim, Outcome, Record, State, Step, Swept
from grpc_idempotency.store import Database
from grpc_idempotency.stores._sqlite import registry
from grpc_idempotency.stores._sqlite.base import Asking, SQLiteBase
from grpc_idempotency.stores._sqlite.requests import (
    THREADS,
    ClaimRequest,
    CompleteRequest,
    Flush,
    GetRequest,
    HoldRequest,
    PendingRequest,
    Prepare,
    ReleaseRequest,
    RenewRequest,
    Request,
    ResolveRequest,
    StepRequest,
    StepsRequest,
    UnclaimedRequest,
    UndoRequest,
    WaitRequest,
)
from grpc_idempotency.stores._sqlite.tables import Tables
from grpc_idempotency.stores._sqlite.writer import Writer

T = TypeVar("T")


class SQLiteStore(SQLiteBase):
    """The SQLite store whose calls block; its settings are those of :class:`SQLiteBase`."""

    # -- the contract; see grpc_idempotency.store

    def open(self) -> None:
        """Opens the file, and creates or migrates the tables."""
        if self._usable() is not None:
            return
        writer, tables = self._acquire()
        try:
            self._ask(writer, tables, Prepare())
        except StoreError:
            self._give_up(writer)
            raise
        self._ready = True

    def close(self) -> None:
        """Waits for what was begun and, as the file's last user in this process, closes it."""
        left = self._take_leave()
        if left is not None:
            writer, tables = left
            flush = self._addressed(tables, Flush())
            flush.value = None
            registry.release(writer, flush)
            flush.future.result()

    def claim(self, claim: Claim, *, over: bytes | None = None) -> Record | None:
        """Claims the operation if it is absent, or lapsed under the fence ``over``."""
        return self._call(ClaimRequest(claim, over))

    def renew(self, name: bytes, fence: bytes, lease: timedelta) -> bool:
        """Makes the lease of a running or undoing record end ``lease`` from now."""
        return self._call(RenewRequest(name, fence, lease))

    def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> datetime | None:
        """Stores the outcome of a running, undoing or held record."""
        return self._call(CompleteRequest(name, fence, outcome, ttl))

    def complete_unclaimed(self, claim: Claim, outcome: Outcome, ttl: timedelta) -> datetime | Record:
        """Stores a completed record of an operation that was never claimed."""
        return self._call(UnclaimedRequest(claim, outcome, ttl))

    def release(self, name: bytes, fence: bytes) -> bool:
        """Deletes a running, undoing or held record."""
        return self._call(ReleaseRequest(name, fence))

    def wait(self, name: bytes, fence: bytes, delay: timedelta, tries: int, undo_tries: int) -> bool:
        """Makes a running or undoing record waiting."""
        return self._call(WaitRequest(name, fence, delay, tries, undo_tries))

    def undo(self, name: bytes, fence: bytes, failure: Outcome) -> bool:
        """Makes a running record undoing, with the failure that it is undone for."""
        return self._call(UndoRequest(name, fence, failure))

    def record_step(self, name: bytes, fence: bytes, step: Step) -> bool:
        """Keeps a finished step of a running, undoing or held record."""
        return self._call(StepRequest(name, fence, step))

    def steps(self, name: bytes) -> Sequence[Step]:
        """The finished steps of an operation, in the order in which they were recorded."""
        return self._call(StepsRequest(name))

    def pending(self, methods: Collection[str], limit: int = 100) -> Sequence[Record]:
        """Lapsed records of these methods that can be dealt with without their clients."""
        return self._call(PendingRequest(methods, limit)) if methods else []

    def hold(self, name: bytes, fence: bytes, reason: str, *, lapsed_only: bool = False) -> bool:
        """Makes a running or undoing record held."""
        return self._call(HoldRequest(name, fence, reason, lapsed_only))

    def resolve(self, name: bytes, fence: bytes, outcome: Outcome | None, ttl: timedelta) -> bool:
        """An operator's word on a held record."""
        return self._call(ResolveRequest(name, fence, outcome, ttl))

    def get(self, name: bytes) -> Record | None:
        """The record, or ``None`` where it is absent."""
        return self._call(GetRequest(name))

    def list(
        self, *, state: State | None = None, method: str | None = None, after: Record | None = None, limit: int = 100
    ) -> Sequence[Record]:
        """Records, oldest claim first."""
        return self._all(self._listing(state, method, after, limit))

    def sweep(self, limit: int = 500) -> Swept:
        """Deletes expired records."""
        return self._all(self._sweeping(limit))

    def transaction(self, fn: Callable[[Database], T], *, step: Callable[[T], Step] | None = None) -> T:
        """Runs the plain function ``fn(db)`` in one transaction, a keyed call's outcome or a step in it too (5.1)."""
        request = self._transacting(fn, step)
        try:
            value: T = self._call(request)
        except StoreUnavailable as error:
            request.tell(error)
            raise
        return value

    def read(self, fn: Callable[[Database], T]) -> T:
        """Answers what the plain function ``fn(db)`` reads, as it is at one instant; never a keyed call's reply."""
        value: T = self._call(self._reading(fn))
        return value

    # -- within

    def _call(self, request: Request[T]) -> T:
        if self._settings.read_only:
            self._check_reads(request)
        usable = self._usable()
        if usable is None:
            self.open()
            usable = self._acquire()
        return self._ask(*usable, request)

    def _all(self, asking: Asking[T]) -> T:
        try:
            request = next(asking)
            while True:
                request = asking.send(self._call(request))
        except StopIteration as done:
            value: T = done.value
            return value

    def _ask(self, writer: Writer, tables: Tables, request: Request[T]) -> T:
        self._addressed(tables, request)
        writer.submit(request)
        value: T = request.future.result()
        return value

    def _addressed(self, tables: Tables, request: Request[T]) -> Request[T]:
        request.error = None
        request.tables = tables
        request.loop = THREADS
        request.future = concurrent.futures.Future()
        return request
