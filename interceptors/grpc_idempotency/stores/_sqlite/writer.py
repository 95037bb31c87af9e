"""The one writer of a file in this process, shared by all stores on it (6.2).

It runs on the connection's own thread. Callers, in any event loop or thread, put a request into the inbox and wait for
a future. The thread takes all requests that wait, runs them as one group and passes the answers to the callers' loops.
So nothing that happens to a caller, such as cancellation or the end of its loop, can interrupt a group or close the
connection.
"""

import logging
import math
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from grpc_idempotency.errors import StoreError, StoreUnavailable
from grpc_idempotency.stores._calls.batches import Watched
from grpc_idempotency.stores._calls.requests import Gathering, Request, deliver
from grpc_idempotency.stores._sqlite.clock import RawClock
from grpc_idempotency.stores._sqlite.connection import Settings, connect
from grpc_idempotency.stores._sqlite.faults import translated
from grpc_idempotency.stores._sqlite.group import Group
from grpc_idempotency.stores._sqlite.guard import GuardedConnection
from grpc_idempotency.stores._sqlite.nesting import Watch
from grpc_idempotency.stores._sqlite.place import Place
from grpc_idempotency.stores._sqlite.requests import Flush, Prepare
from grpc_idempotency.stores._sqlite.sql import Sql
from grpc_idempotency.stores._sqlite.tables import Tables

_log = logging.getLogger("grpc_idempotency.stores.sqlite")
AnyRequest = Request[Any]
_abandoned: list[object] = []
_MOST_AT_ONCE = 4096
"""The maximum number of requests in a batch."""
_CHECK_EACH = 0.05
"""Seconds after which a batch checks, before it begins, too, whether the file is still at its path."""
_LARGE_WAL = 8 << 20
"""The size in bytes above which the -wal file is emptied when the writer is idle."""
_SHRINK_EACH = 1.0
"""The minimum time between two tries to empty it, in seconds."""


class Inbox:
    """The queue of pending requests. Any thread adds requests; the writer's thread waits for them and takes them.

    No request can be lost. Added requests go into the queue that the thread blocks on, and there is no flag that says
    whether the thread sleeps, which could be wrong. Only removing requests needs the lock: the thread and a withdrawal
    never get the same request.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._added: queue.SimpleQueue[AnyRequest | None] = queue.SimpleQueue()
        """The added requests; ``None`` only wakes the thread."""
        self._first: list[AnyRequest] = []
        """The requests that come before those: the ones that there was no time for, and the rest after a withdrawal."""
        self._closing = False
        self.add: Callable[[AnyRequest | None], None] = self._added.put
        """Adds a request, or only wakes the thread with ``None``."""
        self.size: Callable[[], int] = self._added.qsize
        """Returns how many requests were added and not taken yet."""

    def close(self) -> None:
        """Makes :meth:`take` report the end, once it has returned all requests that were added before."""
        self._closing = True
        self.add(None)

    def is_idle(self) -> bool:
        """Returns ``True`` if no urgent work waits: there are no requests, or the inbox is closing."""
        return not self._first and (self._closing or self._added.empty())

    def take(self) -> list[AnyRequest] | None:
        """Waits for requests, and takes all that there are, in order.

        Returns:
            The requests; an empty list if the thread was woken for another reason; ``None`` at the end.
        """
        woken = [] if self._first or self._closing else [self._added.get()]
        with self._lock:
            closing = self._closing  # all requests that were added before the closing are in the queue by now
            batch, self._first = self._first, []
            for _ in range(min(self._added.qsize(), _MOST_AT_ONCE)):
                woken.append(self._added.get_nowait())
            for one in woken:
                if one is not None:
                    batch.append(one)
        return None if closing and not batch else batch

    def put_back(self, requests: list[AnyRequest]) -> None:
        """Puts requests that there was no time for before all others.

        Only the writer's thread calls it, so the thread need not be woken.
        """
        with self._lock:
            self._first = requests + self._first

    def withdraw(self, chosen: Callable[[AnyRequest], bool]) -> list[AnyRequest]:
        """Removes the chosen requests, from any thread. The others keep their order."""
        with self._lock:
            for _ in range(self._added.qsize()):
                one = self._added.get_nowait()
                if one is not None:
                    self._first.append(one)
            withdrawn = [one for one in self._first if chosen(one)]
            ids = set(map(id, withdrawn))
            self._first = [one for one in self._first if id(one) not in ids]
            if self._first or self._closing:
                self._added.put(None)  # the thread may be blocked, and must see the requests in _first, or the end
        return withdrawn


class Writer:
    """Owns the connection to one file."""

    def __init__(self, path: str, settings: Settings, after: threading.Event | None = None) -> None:
        self.path = path
        self.settings = settings
        self.place = Place(path)
        self.lost = False
        """True if the file was removed, replaced or moved while it was open."""
        self.failure: StoreError | None = None
        """Why no request can be submitted: the file could not be opened, is lost, or is closed."""
        self.closed = threading.Event()
        """Set when the file is not open any more."""
        self.watched = Watched()
        """The stores whose observers are told of each batch."""
        self._tables: dict[tuple[str, bool], Tables] = {}
        self._inbox = Inbox()
        self._db: GuardedConnection | None = None
        self._watch: Watch | None = None
        self._farewells: queue.SimpleQueue[AnyRequest] = queue.SimpleQueue()
        self._shrink_at = 0.0
        connect(self.place, settings, self._serve, self._not_opened, after)

    # -- any thread

    def submit(self, request: AnyRequest) -> None:
        """Queues a request. Its ``settle`` delivers the answer in its loop."""
        self._inbox.add(request)
        if self.failure is not None:  # the thread may have ended, and would not take it
            self._refuse_waiting()
        watch = self._watch
        if watch is not None and watch.guard.view is not None:
            watch.set()

    def tables(self, sql: Sql, raw_clock: RawClock, *, read_only: bool) -> Tables:
        """Returns the tables of one prefix, which all stores with the prefix share; read-only stores have their own."""
        tables = Tables(self.path, sql, raw_clock, self.settings.patience, read_only=read_only)
        return self._tables.setdefault((sql.prefix, read_only), tables)

    def close(self, farewell: AnyRequest | None = None) -> None:
        """Finishes pending requests, closes the file, and answers ``farewell``. Nothing may be submitted afterwards."""
        if farewell is not None:
            self._farewells.put(farewell)
        self._inbox.close()
        if self.closed.is_set():
            self._refuse_waiting()

    def look(self) -> None:
        """Makes the thread check whether the file is still at its path, without a request."""
        self._inbox.add(None)

    def abandon(self) -> None:
        """Drops the connection in a forked child, without touching the file, not even to close it.

        The thread exists only in the parent.
        """
        _abandoned.append(self._db)
        self._db = self._watch = None
        self._inbox, self._farewells = Inbox(), queue.SimpleQueue()
        self.failure = StoreUnavailable(f"{self.path} was open when the process was forked; open it again")
        self.closed = threading.Event()
        self.closed.set()

    def _not_opened(self, error: Exception) -> None:
        self._end(self._translated(error))

    def _end(self, failure: StoreError) -> None:
        """Records that the file is not open any more, and refuses all requests."""
        self.failure = failure
        self.closed.set()
        self._refuse_waiting()

    def _refuse_waiting(self) -> None:
        """Refuses the pending requests, and answers the farewells if the file is closed.

        Both the thread that ends and the threads that submit afterwards call it: only one of them gets each request.
        """
        failure = self.failure
        refused = self._inbox.withdraw(lambda _: True)
        for request in refused:
            request.error = failure
        while self.closed.is_set():
            try:
                refused.append(self._farewells.get_nowait())
            except queue.Empty:
                break
        deliver(refused)

    # -- the connection's thread

    def _serve(self, db: GuardedConnection) -> None:
        """Answers requests, one group after another, until the writer closes or its file is lost."""
        self._db = db
        self._watch = Watch(db.guard, self._inbox.withdraw, self.settings.patience, _refuse)
        batch: list[AnyRequest] | None = []
        gathering = Gathering(self._inbox.size)
        checked_at = -math.inf
        try:
            while True:
                batch = self._inbox.take()
                if batch is None:
                    self._leave(db)
                    return
                if not batch or time.monotonic() > checked_at + _CHECK_EACH:
                    trouble = self.place.trouble()
                    if trouble is not None:
                        self._lose(db, batch, trouble, landed=False)
                        return
                began = time.monotonic() if self.watched.stores else None
                left = self._run(db, batch) if batch else []
                trouble = self.place.trouble()  # always checked before a commit is acknowledged
                if trouble is not None:
                    self._lose(db, batch, trouble, landed=None)
                    return
                checked_at = time.monotonic()
                if left:
                    self._inbox.put_back(left)
                    unanswered = set(map(id, left))
                    batch = [one for one in batch if id(one) not in unanswered]
                together = len(batch) + self._inbox.size()
                deliver(batch)
                if batch and began is not None:
                    self.watched.tell(len(batch), checked_at - began)
                if not left:
                    gathering.wait(len(batch), together)
                if self.place.wal_size > _LARGE_WAL and self._inbox.is_idle() and time.monotonic() >= self._shrink_at:
                    self._shrink(db)
        except BaseException as error:  # a bug in this library must not leave callers waiting for ever
            _log.exception("the writer of %s failed", self.path)
            self._fail(batch or [], error, begun=True)
            self._close(db, batch or [], self._translated(error))

    def _lose(self, db: GuardedConnection, batch: list[AnyRequest], trouble: str, *, landed: bool | None) -> None:
        """Gives up a file that was removed, replaced or moved: writes that went into it are not acknowledged.

        The -wal file may still be at the path, and SQLite would write its content into another database there. So the
        content is written to the database that it belongs to, wherever that is now.
        """
        self.lost = True
        told = f"{trouble}: what was written last is not in the file that is there now, if there is one"
        _log.error("%s", told)
        for request in batch:
            request.error = StoreUnavailable(told, landed=landed)
        self.failure = failure = StoreUnavailable(told, landed=False)
        if not self.settings.read_only:
            self.place.emptied = self._checkpoint(db, "TRUNCATE")
        self._close(db, batch, failure)

    def _close(self, db: GuardedConnection, batch: list[AnyRequest], failure: StoreError) -> None:
        """Closes the file.

        Args:
            db: The connection.
            batch: Requests that have a value or an error, and are to be delivered.
            failure: The error of all other requests, now and later.
        """
        db.close()
        deliver(batch)
        self._end(failure)

    def _shrink(self, db: sqlite3.Connection) -> None:
        """Empties a -wal file that has grown because of a long read elsewhere. Waits for no lock.

        First its content is written to the database without the write lock, so that other processes can go on
        meanwhile.
        """
        self._shrink_at = time.monotonic() + _SHRINK_EACH
        if self._checkpoint(db, "PASSIVE"):
            self._checkpoint(db, "TRUNCATE")

    def _checkpoint(self, db: sqlite3.Connection, how: str) -> bool:
        """Runs a checkpoint. Returns ``True`` if the whole content of the -wal file is in the database now."""
        try:
            busy, frames, copied = db.execute(f"PRAGMA wal_checkpoint({how})").fetchone()
        except sqlite3.Error as error:
            _log.warning("the -wal file of %s could not be emptied: %s", self.path, error)
            return False
        return not busy and bool(frames == copied)

    def _run(self, db: GuardedConnection, batch: list[AnyRequest]) -> list[AnyRequest]:
        """Answers the requests, and returns those that there was no time for."""
        parts: dict[Tables, list[AnyRequest]] = {}
        for request in batch:
            if request.tables in parts:
                parts[request.tables].append(request)
            else:
                parts[request.tables] = [request]
        left: list[AnyRequest] = []
        try:
            for tables, requests in parts.items():
                if tables.ready or self._prepare(db, tables, requests):
                    left += Group(db, tables, requests).run()
        except BaseException as error:  # a bug in this library must not leave callers waiting for ever
            _log.exception("a group of requests on %s failed", self.path)
            if db.in_transaction:
                db.execute("ROLLBACK")
            self._fail(batch, error, begun=True)
            return []
        return left

    def _prepare(self, db: GuardedConnection, tables: Tables, requests: Sequence[AnyRequest]) -> bool:
        try:
            tables.prepare(db, migrate=any(isinstance(one, Prepare) and one.migrate for one in requests))
        except (sqlite3.Error, StoreError) as error:
            self._fail((one for one in requests if type(one) is not Flush), error)
            return False
        return True

    def _leave(self, db: GuardedConnection) -> None:
        for tables in self._tables.values():
            try:
                tables.leave(db)
            except (sqlite3.Error, StoreError) as error:
                _log.info("could not sign off on %s: %s", self.path, error)
        self._close(db, [], StoreUnavailable(f"{self.path} is closed"))

    def _fail(self, requests: Iterable[AnyRequest], error: BaseException, *, begun: bool = False) -> None:
        """Fails those requests that have not failed.

        Args:
            requests: The requests.
            error: The cause.
            begun: True if some may have been committed already, so that of none it is known that it was not.
        """
        for request in requests:
            if request.error is None:
                request.error = failure = self._translated(error)
                if begun and isinstance(failure, StoreUnavailable):
                    failure.landed = None

    def _translated(self, error: BaseException) -> StoreError:
        if isinstance(error, sqlite3.Error | StoreError):
            failure: StoreError = translated(error, self.path)
        else:
            failure = StoreUnavailable(f"{self.path} failed: {type(error).__name__}", landed=None)
            failure.__cause__ = error
        return failure


def _refuse(request: AnyRequest, error: Exception) -> None:
    request.error = error
    deliver([request])
