"""The one writer of a file in this process, shared by all stores on it (6.2).

Its owner is the connection's own thread. Callers, in any loop or thread, append a request to a queue and wait for a
future; the thread takes all that waits, runs it as one group and hands the answers to the callers' loops. So nothing
that a caller does, being cancelled or having its loop closed, can interrupt a group or take the connection along.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from grpc_idempotency.errors import StoreError, StoreUnavailable
from grpc_idempotency.stores._calls.requests import (
    GetRequest,
    ListRequest,
    PendingRequest,
    Request,
    StepsRequest,
    SweepRequest,
    TransactionRequest,
)
from grpc_idempotency.stores._sqlite import reads
from grpc_idempotency.stores._sqlite.clock import RawClock
from grpc_idempotency.stores._sqlite.connection import Connection, Settings, connect
from grpc_idempotency.stores._sqlite.faults import translated
from grpc_idempotency.stores._sqlite.group import Group
from grpc_idempotency.stores._sqlite.guard import GuardedConnection
from grpc_idempotency.stores._sqlite.nesting import Watch
from grpc_idempotency.stores._sqlite.place import Place
from grpc_idempotency.stores._sqlite.queue import Queue
from grpc_idempotency.stores._sqlite.requests import Flush, Prepare
from grpc_idempotency.stores._sqlite.sql import Sql
from grpc_idempotency.stores._sqlite.tables import Tables

_log = logging.getLogger("grpc_idempotency.stores.sqlite")
AnyRequest = Request[Any]
_abandoned: list[object] = []
_LINGER_EACH = 60e-6
_LONGEST_LINGER = 0.002
"""Seconds that a batch waits to be joined by others, for each request of the batch before it, and at most."""


_LARGE_WAL = 8 << 20
"""Above how many bytes the -wal file is emptied when nothing else is to be done."""
_SHRINK_EACH = 1.0
"""How often to try that, in seconds."""


class Writer:
    """Owns the connection to one file."""

    def __init__(self, path: str, settings: Settings, after: threading.Event | None = None) -> None:
        self.path = path
        self.settings = settings
        self.place = Place(path)
        self.lost = False
        """Whether the file was removed, replaced or moved while it was open."""
        self.failure: StoreError | None = None
        """Why nothing can be submitted: it could not be opened, or is closed."""
        self.closed = threading.Event()
        self._tables: dict[tuple[str, bool], Tables] = {}
        self._queue = Queue(scheduled=True)
        self._connection: Connection | None = None
        self._watch: Watch | None = None
        self._farewells: list[AnyRequest] = []
        self._shrink_at = 0.0
        connect(self.place, settings, self._connected, after)

    # -- any thread

    def submit(self, request: AnyRequest) -> None:
        """Queues a request; its answer comes through ``settle`` in its loop."""
        if self._queue.add(request):
            self._post_drain()
        watch = self._watch
        if watch is not None and watch.guard.view is not None:
            watch.set()

    def tables(self, sql: Sql, raw_clock: RawClock, *, read_only: bool) -> Tables:
        """The tables of one prefix; the same for all stores that use it, apart for those that only read."""
        tables = Tables(self.path, sql, raw_clock, self.settings.patience, read_only=read_only)
        return self._tables.setdefault((sql.prefix, read_only), tables)

    def close(self, farewell: AnyRequest | None = None) -> None:
        """Lets what is pending be done, then closes and answers ``farewell``. Nothing may be submitted after that."""
        if farewell is not None:
            self._farewells.append(farewell)
        if self._queue.close():
            self._post_drain()

    def look(self) -> None:
        """Has the thread look whether the file is still there, though nothing is asked of it."""
        connection = self._connection
        if connection is not None:
            connection.post(self._look)

    def abandon(self) -> None:
        """In a forked child: the thread is not here, and the file must not be touched, not even to close it."""
        _abandoned.append(self._connection)
        self._connection = self._watch = None
        self._queue = Queue(scheduled=False)
        self.failure = StoreUnavailable(f"{self.path} was open when the process was forked; open it again")

    def _post_drain(self) -> None:
        connection = self._connection
        if connection is not None:
            connection.post(self._drain)
        else:  # it could not be opened, or is closed
            self._refuse_all()

    def _connected(self, connection: Connection | None, error: Exception | None) -> None:
        if connection is None:
            self.failure = self._translated(error or StoreUnavailable(f"{self.path} can't be opened"))
            self._refuse_all()
        else:
            self._connection = connection
            self._watch = Watch(connection.guard, self._queue, self.settings.patience, _refuse)
            connection.post(self._drain)

    def _refuse_all(self) -> None:
        self.closed.set()
        while True:
            self._queue.closed()
            farewells, self._farewells = self._farewells, []
            _deliver(farewells)
            batch = self._queue.take()
            for request in batch:
                request.error = self.failure
            _deliver(batch)
            if self._queue.rest():
                return

    # -- the connection's thread

    def _drain(self, db: GuardedConnection) -> None:
        """Runs groups until nothing waits; the last one closes."""
        queue = self._queue
        while not queue.rest():
            batch = queue.take()
            if not batch:
                if queue.ends():
                    self._leave(db)
                    return
                continue  # what there was has been withdrawn
            trouble = self.place.trouble()
            if trouble is not None:
                self._lose(db, batch, trouble, landed=False)
                return
            left = self._run(db, batch)
            trouble = self.place.trouble()  # looked at again before anybody is told of a commit
            if trouble is not None:
                self._lose(db, batch, trouble, landed=None)
                return
            queue.put_back(left)
            unanswered = set(map(id, left))
            _deliver([one for one in batch if id(one) not in unanswered] if left else batch)
            if len(batch) > 1 and not left:
                # Callers that were answered together ask again one after another: let them share the next commit, too.
                time.sleep(min(len(batch) * _LINGER_EACH, _LONGEST_LINGER))
            if self.place.wal_size > _LARGE_WAL and queue.is_empty() and time.monotonic() >= self._shrink_at:
                self._shrink(db)

    def _look(self, db: GuardedConnection) -> None:
        trouble = self.place.trouble()
        if trouble is not None:
            self._lose(db, [], trouble, landed=False)

    def _lose(self, db: GuardedConnection, batch: list[AnyRequest], trouble: str, *, landed: bool | None) -> None:
        """Lets go of a file that was removed, replaced or moved: nothing is acknowledged that went into it.

        The -wal file may still be at the path, and SQLite would write what it has into another database there. So that
        goes to the file that it belongs to, wherever that is now.
        """
        self.lost = True
        self.failure = StoreUnavailable(
            f"{trouble}: what was written last is not in the file that is there now, if there is one", landed=landed
        )
        _log.error("%s", self.failure)
        for request in batch:
            request.error = self.failure
        if not self.settings.read_only:
            self.place.emptied = self._checkpoint(db, "TRUNCATE")
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.shut(db)
        _deliver(batch)
        self._refuse_all()

    def _shrink(self, db: sqlite3.Connection) -> None:
        """Empties a -wal file that somebody's long read has let grow; it waits for nobody.

        What it has goes to the database without the write lock first, so that other processes can go on meanwhile.
        """
        self._shrink_at = time.monotonic() + _SHRINK_EACH
        if self._checkpoint(db, "PASSIVE"):
            self._checkpoint(db, "TRUNCATE")

    def _checkpoint(self, db: sqlite3.Connection, how: str) -> bool:
        """Returns whether all that is in the -wal file is in the database now."""
        try:
            busy, frames, copied = db.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
        except sqlite3.Error as error:
            _log.warning("the -wal file of %s could not be emptied: %s", self.path, error)
            return False
        return not busy and bool(frames == copied)

    def _run(self, db: GuardedConnection, batch: list[AnyRequest]) -> list[AnyRequest]:
        """Answers the requests; returns those that there was no time for."""
        left: list[AnyRequest] = []
        try:
            for tables, requests in _by_tables(batch):
                left += self._run_for(db, tables, requests)
        except BaseException as error:  # a mistake of ours must not leave callers waiting for ever
            _log.exception("a group of requests on %s failed", self.path)
            if db.in_transaction:
                db.execute("ROLLBACK")
            self._fail(batch, error)
            return []
        return left

    def _run_for(self, db: GuardedConnection, tables: Tables, requests: list[AnyRequest]) -> list[AnyRequest]:
        if not tables.ready and not self._prepare(db, tables, requests):
            return []
        writes, sweeps = self._read(db, tables, requests)
        left: list[AnyRequest] = []
        if writes:
            tables.turns.wait()
            left = Group(db, tables, writes).run()
            tables.turns.ended()
            self._look_around(db, tables)
        for sweep in sweeps:
            self._each(sweep, reads.sweep, db, tables)
        # A flush is answered after all that was asked before it.
        return left + [one for one in requests if type(one) is Flush] if left else left

    def _prepare(self, db: GuardedConnection, tables: Tables, requests: Sequence[AnyRequest]) -> bool:
        try:
            tables.prepare(db)
        except (sqlite3.Error, StoreError) as error:
            self._fail((one for one in requests if type(one) is not Flush), error)
            return False
        return True

    def _read(
        self, db: sqlite3.Connection, tables: Tables, requests: Iterable[AnyRequest]
    ) -> tuple[list[AnyRequest], list[SweepRequest]]:
        """Answers those that need no write lock; the others are left."""
        gets: list[GetRequest] = []
        writes: list[AnyRequest] = []
        sweeps: list[SweepRequest] = []
        for request in requests:
            if isinstance(request, GetRequest):
                gets.append(request)
            elif isinstance(request, ListRequest):
                self._each(request, reads.list_part, db, tables)
            elif isinstance(request, StepsRequest):
                self._each(request, reads.steps, db, tables)
            elif isinstance(request, PendingRequest):
                self._each(request, reads.pending, db, tables)
            elif isinstance(request, SweepRequest):
                sweeps.append(request)
            elif isinstance(request, Flush | Prepare):
                request.value = None
            else:
                writes.append(request)
        if gets:
            self._get(db, tables, gets)
        return writes, sweeps

    def _get(self, db: sqlite3.Connection, tables: Tables, requests: Sequence[GetRequest]) -> None:
        """Reads all at once; where that fails, each by itself, so that only the one at fault bears it."""
        try:
            reads.get(db, tables, requests)
        except Exception as error:
            if len(requests) == 1:
                self._fail(requests, translated(error, self.path))
            else:
                for one in requests:
                    self._get(db, tables, [one])

    def _each(self, request: Any, read: Any, db: sqlite3.Connection, tables: Tables) -> None:
        try:
            read(db, tables, request)
        except Exception as error:
            self._fail([request], translated(error, self.path))

    def _look_around(self, db: sqlite3.Connection, tables: Tables) -> None:
        try:
            tables.turns.look(db, tables.clock.now())
        except sqlite3.Error as error:
            _log.warning("could not look for other processes on %s: %s", self.path, error)

    def _leave(self, db: sqlite3.Connection) -> None:
        for tables in self._tables.values():
            try:
                tables.leave(db)
            except (sqlite3.Error, StoreError) as error:
                _log.info("could not sign off on %s: %s", self.path, error)
        connection, self._connection = self._connection, None
        self.failure = StoreUnavailable(f"{self.path} is closed")
        if connection is not None:
            connection.shut(db)
        self._refuse_all()

    def _fail(self, requests: Iterable[AnyRequest], error: BaseException) -> None:
        for request in requests:
            if request.error is None:
                request.error = self._translated(error)

    def _translated(self, error: BaseException) -> StoreError:
        if isinstance(error, sqlite3.Error | StoreError):
            failure: StoreError = translated(error, self.path)
        else:
            failure = StoreUnavailable(f"{self.path} failed: {type(error).__name__}", landed=None)
            failure.__cause__ = error
        return failure


def _by_tables(batch: list[AnyRequest]) -> Iterable[tuple[Tables, list[AnyRequest]]]:
    """The requests of each table prefix; nearly always there is but one."""
    first = batch[0].tables
    if all(request.tables is first for request in batch):
        return [(first, batch)]
    parts: dict[int, tuple[Tables, list[AnyRequest]]] = {}
    for request in batch:
        parts.setdefault(id(request.tables), (request.tables, []))[1].append(request)
    return parts.values()


def _deliver(requests: Sequence[AnyRequest]) -> None:
    """Delivers results with one call into each event loop."""
    by_loop: dict[int, list[AnyRequest]] = {}
    for request in requests:
        if isinstance(request, TransactionRequest):
            request.end()
        by_loop.setdefault(id(request.loop), []).append(request)
    for answered in by_loop.values():
        with suppress(RuntimeError):  # that loop is closed, and nobody in it waits any more
            answered[0].loop.call_soon_threadsafe(_settle, answered)


def _refuse(request: AnyRequest, error: Exception) -> None:
    request.error = error
    _deliver([request])


def _settle(requests: Sequence[AnyRequest]) -> None:
    for request in requests:
        try:
            request.settle()
        except Exception:  # a mistake of ours in one answer must not keep the others from their callers
            _log.exception("an answer could not be given")
            request.future.cancel()
