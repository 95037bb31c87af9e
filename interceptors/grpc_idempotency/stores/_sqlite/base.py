"""The part that the SQLite stores for asyncio and for threads share: settings, and the use of the file's writer."""

import os
import threading
import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

from grpc_idempotency import _checks
from grpc_idempotency.errors import PolicyError, StoreError, StoreUnusable
from grpc_idempotency.stores._calls.batches import Batches
from grpc_idempotency.stores._calls.nesting import refuse_inside
from grpc_idempotency.stores._calls.requests import (
    CountRequest,
    Engine,
    FindRequest,
    GetRequest,
    ListRequest,
    MethodsRequest,
    NotesRequest,
    PendingRequest,
    Request,
    StandingRequest,
    StepsRequest,
)
from grpc_idempotency.stores._sqlite import registry
from grpc_idempotency.stores._sqlite.clock import MachineClock, RawClock
from grpc_idempotency.stores._sqlite.connection import Settings
from grpc_idempotency.stores._sqlite.sql import Sql
from grpc_idempotency.stores._sqlite.tables import Tables
from grpc_idempotency.stores._sqlite.writer import Writer

_BUSY_TIMEOUT = timedelta(seconds=5)
_LONGEST_BUSY_TIMEOUT = timedelta(days=1)  # SQLite counts milliseconds in an int, which overflows after some weeks
_SYNCHRONOUS = ("NORMAL", "FULL", "EXTRA")


class SQLiteBase:
    """Keeps operations in an SQLite file, which may be the embedder's own database.

    All stores of a process on one file share one connection. The connection's thread writes all requests that wait in
    one transaction. Tables are created or migrated at the first use; their names begin with ``table_prefix``.

    Args:
        path: The file. It is created if it does not exist; its folder is not.
        table_prefix: Letters, digits and underscores.
        busy_timeout: How long to wait for another process that holds the file's lock, or for a transaction's function
            that does not end, before :class:`~grpc_idempotency.errors.StoreUnavailable` is raised; at most a day.
        synchronous: ``FULL`` or ``EXTRA``; ``NORMAL`` is faster and may lose the last commits when the power fails.
        foreign_keys: Makes SQLite enforce the foreign keys of your own tables. A violation makes only its own
            transaction fail; a violation of a deferred key shows at the commit, which several transactions may share.
        read_only: Answers only ``get``, ``standing``, ``list``, ``find``, ``count``, ``methods``, ``notes``,
            ``steps`` and ``pending``, and creates or changes nothing, not even a file beside the store's. For tools
            that only inspect the store.
        migrate: ``False`` to refuse a file or tables that are missing or old, instead of creating or migrating them;
            see :meth:`ddl`.
    """

    _opened: tuple[Engine, Any] | None

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        table_prefix: str = "grpc_idempotency_",
        busy_timeout: timedelta = _BUSY_TIMEOUT,
        synchronous: Literal["NORMAL", "FULL", "EXTRA"] = "FULL",
        foreign_keys: bool = False,
        read_only: bool = False,
        migrate: bool = True,
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
        self._migrate = _checks.flag("migrate", migrate)
        self._clock = _clock or MachineClock()
        self._batches = Batches()
        self._lock = threading.Lock()
        self._writer: Writer | None = None
        self._tables: Tables | None = None
        self._identity: str | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None

    @property
    def path(self) -> str:
        """The file's real path."""
        return self._path

    @property
    def identity(self) -> str | None:
        """The id of the operations in their file, for each table prefix; ``None`` before the store was opened first.

        A copy of the file has the same identity, so one server must not use both.
        """
        return self._identity

    def observe(self, committed: Callable[[int, float], object]) -> Callable[[], object]:
        """See :class:`grpc_idempotency.store.ObservableStore`: a group is one batch, of all stores
        of this process on the file.
        """
        end = self._batches.add(committed)
        with self._lock:
            if self._writer is not None:
                self._writer.watched.add(self._batches)
        return end

    def ddl(self, *, since: int = 0) -> str:
        """Returns the SQL that creates or migrates the tables, as one transaction. Opens nothing.

        For files in which only an operator creates tables; servers then have ``migrate=False``.

        Args:
            since: The version of the tables that exist; 0 if there are none.

        Raises:
            PolicyError: There is no such version.
        """
        return self._sql.ddl(since)

    # -- within

    def _acquire(self) -> tuple[Writer, Tables] | None:
        """Returns the writer and the tables that ``open`` has to prepare; ``None`` if the store is open."""
        refuse_inside()
        if not (self._migrate or self._settings.read_only or os.path.exists(self._given)):  # noqa: PTH110 - as above
            raise StoreUnusable(f"{self._given} does not exist, and this store must not create it (migrate=False)")
        with self._lock:
            if self._writer is None or self._tables is None or self._writer.failure is not None:
                self._let_go()  # of the failed writer, if there is one
                writer = registry.acquire(self._given, self._settings)
                if self._batches.observers:
                    writer.watched.add(self._batches)
                self._path = writer.path
                self._writer = writer
                self._tables = writer.tables(self._sql, self._clock, read_only=self._settings.read_only)
                self._finalizer = weakref.finalize(self, registry.release, writer)
                self._finalizer.atexit = False  # at exit the registry closes all writers, and waits for them
            return None if self._opened is not None else (self._writer, self._tables)

    def _prepared(self, writer: Writer, tables: Tables) -> None:
        """Sends requests to the writer from now on: the tables are ready."""
        with self._lock:
            if self._writer is writer:
                self._identity = tables.identity
                self._opened = (_Reader(writer) if self._settings.read_only else writer), tables

    def _give_up(self, writer: Writer) -> None:
        """Releases a writer that could not open, so that the next call tries again."""
        with self._lock:
            if self._writer is writer:
                self._let_go()

    def _take_leave(self) -> tuple[Engine, Tables] | None:
        """Returns the engine for the last request of ``close``, and the tables; ``None`` if the store has no writer."""
        refuse_inside()
        with self._lock:
            writer, tables, finalizer = self._writer, self._tables, self._finalizer
            self._writer = self._tables = self._finalizer = self._opened = None
        if writer is None or tables is None or finalizer is None or not finalizer.detach():
            return None
        return _Leaving(writer), tables

    def _let_go(self) -> None:
        finalizer, self._finalizer = self._finalizer, None
        self._writer = self._tables = self._opened = None
        if finalizer is not None:
            finalizer()


_READS = (
    GetRequest,
    StandingRequest,
    ListRequest,
    MethodsRequest,
    FindRequest,
    CountRequest,
    NotesRequest,
    StepsRequest,
    PendingRequest,
)


class _Reader:
    """The engine of a read-only store: it refuses writes, and passes reads on to the writer, which stores may share."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    @property
    def failure(self) -> StoreError | None:
        """See :class:`Engine`."""
        return self._writer.failure

    def submit(self, request: Request[Any]) -> None:
        """See :class:`Engine`."""
        if isinstance(request, _READS):
            self._writer.submit(request)
            return
        request.error = StoreUnusable(f"{self._writer.path} is opened read-only here: nothing can be written")
        request.end()
        request.settle()


class _Leaving:
    """The engine for a store's last request: it releases the writer, and answers once all earlier requests are done."""

    failure = None

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def submit(self, request: Request[Any]) -> None:
        """See :class:`Engine`."""
        registry.release(self._writer, request)
