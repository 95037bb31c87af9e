"""What the SQLite stores for asyncio and for threads share: settings, the writer, and whose operation it is."""

import inspect
import os
import threading
import weakref
from collections.abc import Callable, Generator
from datetime import timedelta
from typing import Any, Literal, TypeVar

from grpc_idempotency import _checks
from grpc_idempotency.errors import PolicyError, StoreUnusable, TransactionMisuse
from grpc_idempotency.records import Record, State, Step, Swept
from grpc_idempotency.store import Database, RunningOperation, behind, current, lend
from grpc_idempotency.stores._sqlite import nesting, registry, rows
from grpc_idempotency.stores._sqlite.clock import MachineClock, RawClock
from grpc_idempotency.stores._sqlite.connection import Settings
from grpc_idempotency.stores._sqlite.requests import (
    GetRequest,
    ListRequest,
    PendingRequest,
    Request,
    StepsRequest,
    SweepRequest,
    TransactionRequest,
)
from grpc_idempotency.stores._sqlite.sql import Sql
from grpc_idempotency.stores._sqlite.tables import Tables
from grpc_idempotency.stores._sqlite.writer import Writer

_BUSY_TIMEOUT = timedelta(seconds=5)
_LONGEST_BUSY_TIMEOUT = timedelta(days=1)  # SQLite counts it in milliseconds, and wraps after some weeks
_SYNCHRONOUS = ("NORMAL", "FULL", "EXTRA")
_SWEEP_PART = 100

T = TypeVar("T")
Asking = Generator[Request[Any], Any, T]
"""Requests one after another, each answered before the next."""


class SQLiteBase:
    """Keeps operations in an SQLite file, an embedder's own database if you like.

    All stores of a process on one file share one connection, whose thread writes everything that waits in one
    transaction. Tables are created or migrated at the first use; their names begin with ``table_prefix``.

    Args:
        path: the file; it is created if need be, its folder is not.
        table_prefix: letters, digits and underscores.
        busy_timeout: how long to wait for another process that holds the file's lock, or for a transaction's function
            that does not end, before :class:`~grpc_idempotency.errors.StoreUnavailable`; a day at most.
        synchronous: ``FULL`` or ``EXTRA``; ``NORMAL`` is faster and may lose the last commits when the power fails.
        read_only: only ``get``, ``list``, ``steps`` and ``pending`` are answered, and nothing is made or changed, not
            even a file beside the store's. For tools that look.
        foreign_keys: whether SQLite enforces the foreign keys of your own tables. A violation fails its own transaction
            alone; a deferred one shows at the commit, which several transactions may share.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        table_prefix: str = "grpc_idempotency_",
        busy_timeout: timedelta = _BUSY_TIMEOUT,
        synchronous: Literal["NORMAL", "FULL", "EXTRA"] = "FULL",
        foreign_keys: bool = False,
        read_only: bool = False,
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
        _checks.duration("busy_timeout", busy_timeout, longest=_LONGEST_BUSY_TIMEOUT)
        self._given = os.path.abspath(given)  # noqa: PTH100 - a link may lead to another file later
        self._path = os.path.realpath(given)
        self._sql = Sql(table_prefix)
        self._settings = Settings(
            synchronous=synchronous,
            foreign_keys=_checks.flag("foreign_keys", foreign_keys),
            patience=busy_timeout.total_seconds(),
            read_only=_checks.flag("read_only", read_only),
        )
        self._clock = _clock or MachineClock()
        self._lock = threading.Lock()
        self._writer: Writer | None = None
        self._tables: Tables | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._ready = False

    @property
    def database(self) -> tuple[str, str]:
        """The file's real path and the prefix: stores that have these in common share their operations."""
        return self._path, self._sql.prefix

    # -- within

    def _tables_of(self, writer: Writer) -> Tables:
        return writer.tables(self._sql, self._clock, read_only=self._settings.read_only)

    def _check_reads(self, request: Request[Any]) -> None:
        """Refuses what a store that is only for reading does not do."""
        if not isinstance(request, GetRequest | ListRequest | StepsRequest | PendingRequest):
            raise StoreUnusable(f"{self._path} is opened read-only here: nothing can be written")

    def _listing(
        self, state: State | None, method: str | None, after: Record | None, limit: int
    ) -> Asking[list[Record]]:
        """Reads in bounded parts, between which the file's other users have their turn."""
        found: list[Record] = []
        behind: tuple[int, bytes] | None = (-1, b"") if after is None else (rows.wall_ms(after.created_at), after.name)
        while behind is not None and len(found) < limit:
            part, behind = yield ListRequest(behind, state, method, limit - len(found))
            found += part
        return found

    def _sweeping(self, limit: int) -> Asking[Swept]:
        """Deletes in parts, between which others have their turn."""
        deleted = freed = 0
        more = True
        while more and deleted < limit:
            part: Swept = yield SweepRequest(min(_SWEEP_PART, limit - deleted))
            deleted, freed, more = deleted + part.deleted, freed + part.freed_bytes, part.more
        return Swept(deleted=deleted, more=more, freed_bytes=freed)

    def _transacting(
        self, fn: Callable[[Database], Any], make_step: Callable[[Any], Step] | None
    ) -> TransactionRequest:
        """The request for a transaction, in a keyed call of this database's with its outcome or a step in it."""
        if inspect.iscoroutinefunction(fn):
            raise TransactionMisuse("a transaction's function must be a plain def: it runs on the database's thread")
        operation = self._own(current())
        if operation is None and (stray := self._own(behind())) is not None:
            fn = _without_reply(fn, stray)
        if operation is not None and operation.committed is not None:
            raise TransactionMisuse("a keyed call has one transaction: its first has committed the reply already")
        if operation is None and make_step is not None:
            raise TransactionMisuse("a step can only be kept in a keyed call whose record is in this very database")
        request = TransactionRequest(fn, operation, make_step)
        if operation is not None:
            lend(request.context, operation)
        return request

    def _reading(self, fn: Callable[[Database], Any]) -> TransactionRequest:
        if inspect.iscoroutinefunction(fn):
            raise TransactionMisuse("a read's function must be a plain def: it runs on the database's thread")
        return TransactionRequest(fn, reads=True)

    def _own(self, operation: RunningOperation | None) -> RunningOperation | None:
        """The operation, if this store's database holds its record."""
        if operation is None:
            return None
        same = operation.store is self or getattr(operation.store, "database", None) == self.database
        return operation if same else None

    def _take_leave(self) -> tuple[Writer, Tables] | None:
        """For ``close``: what has to be let go of, if anything."""
        nesting.refuse_inside()
        with self._lock:
            writer, tables, finalizer = self._writer, self._tables, self._finalizer
            self._writer = self._tables = self._finalizer = None
            self._ready = False
        if writer is None or tables is None or finalizer is None or not finalizer.detach():
            return None
        return writer, tables

    def _usable(self) -> tuple[Writer, Tables] | None:
        """The writer, if the store is open. Raises :class:`TransactionMisuse` within a transaction's function."""
        nesting.refuse_inside()
        writer, tables = self._writer, self._tables
        if not self._ready or writer is None or tables is None or writer.failure is not None:
            return None
        return writer, tables

    def _acquire(self) -> tuple[Writer, Tables]:
        with self._lock:
            if self._writer is None or self._tables is None or self._writer.failure is not None:
                finalizer, self._finalizer = self._finalizer, None
                self._writer = self._tables = None
                self._ready = False
                if finalizer is not None:
                    finalizer()  # lets go of the writer that has failed
                writer = registry.acquire(self._given, self._settings)
                self._path = writer.path
                self._writer, self._tables = writer, self._tables_of(writer)
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


def _without_reply(fn: Callable[[Database], T], operation: RunningOperation) -> Callable[[Database], T]:
    """The function of a transaction that a handler's task or thread makes: the reply is not for it to commit.

    A wrapper may have put the handler itself into a task, as ``asyncio.wait_for`` did before Python 3.12. Its rows
    would be kept without the outcome, and nobody would know.
    """

    def guarded(db: Database) -> T:
        value = fn(db)
        if not operation.over and operation.answers(value):
            raise TransactionMisuse(_STRAYED)
        return value

    return guarded


_STRAYED = (
    "a task or thread that a handler has started has transactions of its own, and this one's function returned the "
    "response of the handler's method: its rows and the call's outcome would not be kept together. Call "
    "store.transaction in the handler itself; what it returns may be awaited in another task."
)
