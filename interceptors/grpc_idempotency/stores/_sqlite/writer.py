"""The one writer of a file in this process, shared by all stores on it (6.2).

Its owner is the connection's own thread. Callers, in any loop or thread, put a request into the inbox and wait for a
future; the thread takes all that waits, runs it as one group and hands the answers to the callers' loops. So nothing
that a caller does, being cancelled or having its loop closed, can interrupt a group or take the connection along.
"""

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from grpc_idempotency.errors import StoreError, StoreUnavailable
from grpc_idempotency.stores._calls.requests import (
    Request,
    TransactionRequest,
)
from grpc_idempotency.stores._sqlite.clock import RawClock
from grpc_idempotency.stores._sqlite.connection import Settings, connect
from grpc_idempotency.stores._sqlite.faults import translated
from grpc_idempotency.stores._sqlite.group import Group
from grpc_idempotency.stores._sqlite.guard import GuardedConnection
from grpc_idempotency.stores._sqlite.nesting import Watch
from grpc_idempotency.stores._sqlite.place import Place
from grpc_idempotency.stores._sqlite.requests import Flush
from grpc_idempotency.stores._sqlite.sql import Sql
from grpc_idempotency.stores._sqlite.tables import Tables

_log = logging.getLogger("grpc_idempotency.stores.sqlite")
AnyRequest = Request[Any]
_abandoned: list[object] = []
_MOST_AT_ONCE = 4096
"""How many requests a batch takes at most."""
_LINGER_EACH = 60e-6
_LONGEST_LINGER = 0.002
"""Seconds that a batch waits to be joined by others, for each request of the batch before it, and at most."""


_LARGE_WAL = 8 << 20
"""Above how many bytes the -wal file is emptied when nothing else is to be done."""
_SHRINK_EACH = 1.0
"""How often to try that, in seconds."""


class Inbox:
    """The requests that wait: any thread adds them, and the writer's thread waits for them and takes them.

    No request is left behind. What is added goes into the queue that the thread blocks on; nothing says of the thread
    that it sleeps or wakes, so nothing can say it wrongly. Only taking out needs the lock: whatever it finds, the
    thread or a withdrawal, it has alone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._added: queue.SimpleQueue[AnyRequest | None] = queue.SimpleQueue()
        """What was added; ``None`` only wakes the thread."""
        self._first: list[AnyRequest] = []
        """What comes before that: what there was no time for, and what a withdrawal has left."""
        self._closing = False
        self.add: Callable[[AnyRequest | None], None] = self._added.put
        """Adds a request, or just wakes the thread with ``None``."""

    def close(self) -> None:
        """Has :meth:`take` tell of the end, once everything is taken that was added until now."""
        self._closing = True
        self.add(None)

    def is_idle(self) -> bool:
        """Returns whether nothing waits that is urgent: nothing at all, or the closing."""
        return not self._first and (self._closing or self._added.empty())

    def take(self) -> list[AnyRequest] | None:
        """Waits for requests and takes those that there are, in their order.

        Returns:
            The requests: none if the thread was woken for something else; ``None`` at the end.
        """
        woken = [] if self._first or self._closing else [self._added.get()]
        with self._lock:
            closing = self._closing  # what was added before the closing is there by now
            batch, self._first = self._first, []
            for _ in range(min(self._added.qsize(), _MOST_AT_ONCE)):
                woken.append(self._added.get_nowait())
            for one in woken:
                if one is not None:
                    batch.append(one)
        return None if closing and not batch else batch

    def put_back(self, requests: list[AnyRequest]) -> None:
        """Puts requests that there was no time for before all others; for the thread, which need not be woken."""
        with self._lock:
            self._first = requests + self._first

    def withdraw(self, chosen: Callable[[AnyRequest], bool]) -> list[AnyRequest]:
        """Takes out the requests that are chosen, from any thread; the others keep their places."""
        with self._lock:
            for _ in range(self._added.qsize()):
                one = self._added.get_nowait()
                if one is not None:
                    self._first.append(one)
            withdrawn = [one for one in self._first if chosen(one)]
            ids = set(map(id, withdrawn))
            self._first = [one for one in self._first if id(one) not in ids]
            if self._first or self._closing:
                self._added.put(None)  # the thread may be blocked, and must see what is first now, or the end
        return withdrawn


class Writer:
    """Owns the connection to one file."""

    def __init__(self, path: str, settings: Settings, after: threading.Event | None = None) -> None:
        self.path = path
        self.settings = settings
        self.place = Place(path)
        self.lost = False
        """Whether the file was removed, replaced or moved while it was open."""
        self.failure: StoreError | None = None
        """Why nothing can be submitted: the file could not be opened, or is lost, or closed."""
        self.closed = threading.Event()
        """Is set when the file is not open any more."""
        self._tables: dict[tuple[str, bool], Tables] = {}
        self._inbox = Inbox()
        self._db: GuardedConnection | None = None
        self._watch: Watch | None = None
        self._farewells: queue.SimpleQueue[AnyRequest] = queue.SimpleQueue()
        self._shrink_at = 0.0
        connect(self.place, settings, self._serve, self._not_opened, after)

    # -- any thread

    def submit(self, request: AnyRequest) -> None:
        """Queues a request; its answer comes through ``settle`` in its loop."""
        self._inbox.add(request)
        if self.failure is not None:  # nobody may be there to take it
            self._refuse_waiting()
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
            self._farewells.put(farewell)
        self._inbox.close()
        if self.closed.is_set():
            self._refuse_waiting()

    def look(self) -> None:
        """Has the thread look whether the file is still there, though nothing is asked of it."""
        self._inbox.add(None)

    def abandon(self) -> None:
        """In a forked child: the thread is not here, and the file must not be touched, not even to close it."""
        _abandoned.append(self._db)
        self._db = self._watch = None
        self._inbox, self._farewells = Inbox(), queue.SimpleQueue()
        self.failure = StoreUnavailable(f"{self.path} was open when the process was forked; open it again")
        self.closed = threading.Event()
        self.closed.set()

    def _not_opened(self, error: Exception) -> None:
        self._end(self._translated(error))

    def _end(self, failure: StoreError) -> None:
        """The file is not open any more, and nobody takes requests."""
        self.failure = failure
        self.closed.set()
        self._refuse_waiting()

    def _refuse_waiting(self) -> None:
        """Refuses what waits, and answers the farewells if the file is closed.

        Both the thread that ends and those that submit afterwards do so: each request is taken out by one of them.
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
        _deliver(refused)

    # -- the connection's thread

    def _serve(self, db: GuardedConnection) -> None:
        """Answers requests, one group after another, until the writer closes or its file is lost."""
        self._db = db
        self._watch = Watch(db.guard, self._inbox.withdraw, self.settings.patience, _refuse)
        batch: list[AnyRequest] | None = []
        try:
            while True:
                batch = self._inbox.take()
                if batch is None:
                    self._leave(db)
                    return
                trouble = self.place.trouble()
                if trouble is not None:
                    self._lose(db, batch, trouble, landed=False)
                    return
                left = self._run(db, batch) if batch else []
                trouble = self.place.trouble()  # looked at again before anybody is told of a commit
                if trouble is not None:
                    self._lose(db, batch, trouble, landed=None)
                    return
                if left:
                    self._inbox.put_back(left)
                    unanswered = set(map(id, left))
                    batch = [one for one in batch if id(one) not in unanswered]
                _deliver(batch)
                if len(batch) > 1 and not left:
                    # Callers that were answered together ask again one after another: let them share the next commit.
                    time.sleep(min(len(batch) * _LINGER_EACH, _LONGEST_LINGER))
                if self.place.wal_size > _LARGE_WAL and self._inbox.is_idle() and time.monotonic() >= self._shrink_at:
                    self._shrink(db)
        except BaseException as error:  # a mistake of ours must not leave callers waiting for ever
            _log.exception("the writer of %s failed", self.path)
            self._fail(batch or [], error)
            self._close(db, batch or [], self._translated(error))

    def _lose(self, db: GuardedConnection, batch: list[AnyRequest], trouble: str, *, landed: bool | None) -> None:
        """Lets go of a file that was removed, replaced or moved: nothing is acknowledged that went into it.

        The -wal file may still be at the path, and SQLite would write what it has into another database there. So that
        goes to the file that it belongs to, wherever that is now.
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
        """Closes the file; ``failure`` is why nothing more is done, and the answer to what has none."""
        db.close()
        _deliver(batch)
        self._end(failure)

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
        except BaseException as error:  # a mistake of ours must not leave callers waiting for ever
            _log.exception("a group of requests on %s failed", self.path)
            if db.in_transaction:
                db.execute("ROLLBACK")
            self._fail(batch, error)
            return []
        return left

    def _prepare(self, db: GuardedConnection, tables: Tables, requests: Sequence[AnyRequest]) -> bool:
        try:
            tables.prepare(db)
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


def _deliver(requests: Sequence[AnyRequest]) -> None:
    """Delivers results with one call into each event loop."""
    loops: dict[Any, list[AnyRequest]] = {}
    for request in requests:
        if type(request) is TransactionRequest:
            request.end()
        if request.loop in loops:
            loops[request.loop].append(request)
        else:
            loops[request.loop] = [request]
    for loop, answered in loops.items():
        with suppress(RuntimeError):  # that loop is closed, and nobody in it waits any more
            loop.call_soon_threadsafe(_settle, answered)


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
