"""The SQLite store for ``grpc.aio``: turns each call of the contract into a request to the file's writer."""

import asyncio
import inspect
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Literal, TypeVar

from grpc_idempotency.errors import PolicyError, StoreError, TransactionMisuse
from grpc_idempotency.operation import Operation, current_operation
from grpc_idempotency.records import Claim, Outcome, Record, State, Swept
from grpc_idempotency.store import Database
from grpc_idempotency.stores.sqlite import registry, rows
from grpc_idempotency.stores.sqlite.clock import MachineClock, RawClock
from grpc_idempotency.stores.sqlite.connection import Settings
from grpc_idempotency.stores.sqlite.requests import (
    ClaimRequest,
    CompleteRequest,
    Flush,
    GetRequest,
    HoldRequest,
    ListRequest,
    Prepare,
    ReleaseRequest,
    RenewRequest,
    Request,
    ResolveRequest,
    SweepRequest,
    TransactionRequest,
)
from grpc_idempotency.stores.sqlite.sql import Sql
from grpc_idempotency.stores.sqlite.tables import Tables
from grpc_idempotency.stores.sqlite.writer import Writer

T = TypeVar("T")
_BUSY_TIMEOUT = timedelta(seconds=5)
_SYNCHRONOUS = ("NORMAL", "FULL", "EXTRA")
_SWEEP_PART = 100


class AsyncSQLiteStore:
    """Keeps operations in an SQLite file, an embedder's own database if you like.

    All stores of a process on one file share one connection, whose thread writes everything that waits in one
    transaction. Tables are created or migrated at the first use; their names begin with ``table_prefix``.

    Args:
        path: the file; it is created if need be, its folder is not.
        table_prefix: letters, digits and underscores.
        busy_timeout: how long to wait for another process that holds the file's lock, before
            :class:`~grpc_idempotency.errors.StoreUnavailable`.
        synchronous: ``FULL`` or ``EXTRA``; ``NORMAL`` is faster and may lose the last commits when the power fails.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        table_prefix: str = "grpc_idempotency_",
        busy_timeout: timedelta = _BUSY_TIMEOUT,
        synchronous: Literal["NORMAL", "FULL", "EXTRA"] = "FULL",
        _clock: RawClock | None = None,
    ) -> None:
        given = os.fspath(path)
        if not given or given == ":memory:" or given.startswith("file:"):
            raise PolicyError(
                f"the SQLite store needs the path of a file, got {given!r}; for tests without a file there is "
                "grpc_idempotency.stores.memory"
            )
        if synchronous not in _SYNCHRONOUS:
            raise PolicyError(f"synchronous must be one of {', '.join(_SYNCHRONOUS)}, got {synchronous!r}")
        if busy_timeout < timedelta(0):
            raise PolicyError(f"busy_timeout must not be negative, got {busy_timeout}")
        self._path = os.path.realpath(given)
        self._sql = Sql(table_prefix)
        self._settings = Settings(synchronous=synchronous, patience=busy_timeout.total_seconds())
        self._clock = _clock or MachineClock()
        self._lock = threading.Lock()
        self._writer: Writer | None = None
        self._tables: Tables | None = None
        self._finalizer: weakref.finalize[..., AsyncSQLiteStore] | None = None
        self._ready = False

    @property
    def database(self) -> tuple[str, str]:
        """The file's real path and the prefix: stores that have these in common share their operations."""
        return self._path, self._sql.prefix

    # -- the contract; see grpc_idempotency.store

    async def open(self) -> None:
        """Opens the file, and creates or migrates the tables."""
        if self._ready and self._writer is not None and self._writer.failure is None:
            return
        writer, tables = self._acquire()
        try:
            await self._ask(writer, tables, Prepare())
        except StoreError:
            self._give_up(writer)
            raise
        self._ready = True

    async def close(self) -> None:
        """Waits for what was begun and, as the file's last user in this process, closes it."""
        with self._lock:
            writer, tables, finalizer = self._writer, self._tables, self._finalizer
            self._writer = self._tables = self._finalizer = None
            self._ready = False
        if writer is None or tables is None or finalizer is None or not finalizer.detach():
            return
        flush = self._request(tables, Flush())
        flush.value = None
        registry.release(writer, flush)
        await flush.future

    async def claim(self, claim: Claim, *, over: bytes | None = None) -> Record | None:
        """Claims the operation if it is absent, or lapsed under the fence ``over``."""
        return await self._call(ClaimRequest(claim, over))

    async def renew(self, name: bytes, fence: bytes, lease: timedelta) -> bool:
        """Makes the lease of a running record end ``lease`` from now."""
        return await self._call(RenewRequest(name, fence, lease))

    async def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> bool:
        """Stores the outcome of a running or held record."""
        return await self._call(CompleteRequest(name, fence, outcome, ttl))

    async def release(self, name: bytes, fence: bytes) -> bool:
        """Deletes a running or held record."""
        return await self._call(ReleaseRequest(name, fence))

    async def hold(self, name: bytes, fence: bytes, reason: str, *, lapsed_only: bool = False) -> bool:
        """Makes a running record held."""
        return await self._call(HoldRequest(name, fence, reason, lapsed_only))

    async def resolve(self, name: bytes, fence: bytes, outcome: Outcome | None, ttl: timedelta) -> bool:
        """An operator's word on a held record."""
        return await self._call(ResolveRequest(name, fence, outcome, ttl))

    async def get(self, name: bytes) -> Record | None:
        """The record, or ``None`` where it is absent."""
        return await self._call(GetRequest(name))

    async def list(
        self, *, state: State | None = None, method: str | None = None, after: Record | None = None, limit: int = 100
    ) -> Sequence[Record]:
        """Records, oldest claim first; read in bounded parts, between which the file's other users have their turn."""
        found: list[Record] = []
        behind: tuple[int, bytes] | None = (-1, b"") if after is None else (rows.wall_ms(after.created_at), after.name)
        while behind is not None and len(found) < limit:
            part, behind = await self._call(ListRequest(behind, state, method, limit - len(found)))
            found += part
        return found

    async def sweep(self, limit: int = 500) -> Swept:
        """Deletes expired records, in parts between which others have their turn."""
        deleted = freed = 0
        more = True
        while more and deleted < limit:
            part = await self._call(SweepRequest(min(_SWEEP_PART, limit - deleted)))
            deleted, freed, more = deleted + part.deleted, freed + part.freed_bytes, part.more
        return Swept(deleted=deleted, more=more, freed_bytes=freed)

    async def transaction(self, fn: Callable[[Database], T]) -> T:
        """Runs the plain function ``fn(db)`` in one transaction, a keyed call's outcome in it too (5.1)."""
        if inspect.iscoroutinefunction(fn):
            raise TransactionMisuse("a transaction's function must be a plain def: it runs on the database's thread")
        operation = self._own(current_operation())
        if operation is not None and operation.committed is not None:
            raise TransactionMisuse("a keyed call has one transaction: its first has committed the reply already")
        value: T = await self._call(TransactionRequest(fn, operation))
        return value

    # -- within

    def _own(self, operation: Operation | None) -> Operation | None:
        """The operation, if this store's database holds its record."""
        if operation is None:
            return None
        same = operation.store is self or getattr(operation.store, "database", None) == self.database
        return operation if same else None

    async def _call(self, request: Request[T]) -> T:
        writer, tables = self._writer, self._tables
        if not self._ready or writer is None or tables is None or writer.failure is not None:
            await self.open()
            writer, tables = self._acquire()
        return await self._ask(writer, tables, request)

    def _ask(self, writer: Writer, tables: Tables, request: Request[T]) -> "asyncio.Future[T]":
        self._request(tables, request)
        writer.submit(request)
        return request.future

    def _request(self, tables: Tables, request: Request[T]) -> Request[T]:
        request.error = None
        request.tables = tables
        request.loop = loop = asyncio.get_running_loop()
        request.future = loop.create_future()
        return request

    def _acquire(self) -> tuple[Writer, Tables]:
        with self._lock:
            if self._writer is None or self._tables is None or self._writer.failure is not None:
                writer = registry.acquire(self._path, self._settings)
                self._writer, self._tables = writer, writer.tables(self._sql, self._clock)
                self._finalizer = weakref.finalize(self, registry.release, writer)
                self._finalizer.atexit = False  # at exit the registry closes all writers, and waits for them
            return self._writer, self._tables

    def _give_up(self, writer: Writer) -> None:
        """Lets go of a writer that could not open, so that the next call tries anew."""
        with self._lock:
            if self._writer is not writer or self._finalizer is None:
                return
            finalizer, self._finalizer = self._finalizer, None
            self._writer = self._tables = None
            self._ready = False
        finalizer()
