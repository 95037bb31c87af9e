"""The one writer of a database in this process (6.2).

It is a thread with connections of its own: one for all that must be on the disk, and another for claims that need not
be. Callers put a request into its queue and wait for a future. The thread takes all requests that wait, and sends them
as one group. So nothing that happens to a caller can interrupt a group.
"""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg

from grpc_idempotency.errors import StoreError, StoreUnavailable
from grpc_idempotency.stores._calls.batches import Watched
from grpc_idempotency.stores._calls.requests import Gathering, Request, deliver
from grpc_idempotency.stores._postgres import faults, tables
from grpc_idempotency.stores._postgres.group import Group
from grpc_idempotency.stores._postgres.requests import Flush, Prepare
from grpc_idempotency.stores._postgres.settings import Connection, Sessions, Settings, is_lost
from grpc_idempotency.stores._postgres.sql import Sql

_log = logging.getLogger("grpc_idempotency.stores.postgres")
AnyRequest = Request[Any]
_MOST_AT_ONCE = 4096
_LOOK_AGAIN = 0.01
"""Seconds after which a request is made again whose record was locked."""


class Writer:
    """The thread that writes.

    Args:
        settings: The engine's settings.
        sql: The statements.
        sessions: The settings of connections.
        ended: Called in the thread when it ends, with the requests that wait for the end.
        crowded: Returns ``True`` if transactions wait for connections.
    """

    def __init__(
        self,
        settings: Settings,
        sql: Sql,
        sessions: Sessions,
        ended: Callable[[list[AnyRequest]], None],
        crowded: Callable[[], bool],
    ) -> None:
        self.identity: str | None = None
        """The identity of the database's operations, once it is known."""
        self.watched = Watched()
        """The stores whose observers are told of each batch."""
        self._settings = settings
        self._sql = sql
        self._sessions = sessions
        self._ended = ended
        self._crowded = crowded
        self._queue: queue.SimpleQueue[AnyRequest | None] = queue.SimpleQueue()
        self._connections: dict[bool, Connection] = {}
        """By whether their commits wait for the disk. Those of claims of transactional operations do not."""
        self._group = Group(self._connected, self._drop, sql, sessions)
        self._locked_until: dict[int, float] = {}
        """When requests are given up whose records others have locked, by their ids."""
        self._farewells: list[AnyRequest] = []
        threading.Thread(target=self._serve, name="grpc-idempotency-postgres", daemon=True).start()

    def submit(self, request: AnyRequest) -> None:
        """Queues a request."""
        self._queue.put(request)

    def close(self, farewell: AnyRequest | None) -> None:
        """Ends the thread after the requests that are queued. ``farewell`` is answered then."""
        if farewell is not None:
            self._farewells.append(farewell)
        self._queue.put(None)

    # -- the thread

    def _serve(self) -> None:
        locked: list[AnyRequest] = []
        gathering, more = Gathering(self._queue.qsize, self._crowded), True
        while more or locked:
            more, batch = self._take(_LOOK_AGAIN if locked else None, wait=more)
            requests = [*locked, *batch]
            began = time.monotonic()
            try:
                locked = self._run(requests)
            except Exception as error:  # a bug in this library must not leave callers waiting for ever
                _log.exception("the writer of %s failed", self._settings.place)
                self._drop()
                locked = []
                for one in requests:
                    one.error = one.error or faults.translated(error)
            seconds = time.monotonic() - began
            waiting = set(map(id, locked))
            answered = [one for one in requests if id(one) not in waiting]
            together = len(answered) + self._queue.qsize()
            deliver(answered)
            if answered and self.watched.stores:
                self.watched.tell(len(answered), seconds)
            if more and not locked:
                gathering.wait(len(answered), together)
        self._drop()
        self._ended(self._farewells)

    def _take(self, patience: float | None, *, wait: bool) -> tuple[bool, list[AnyRequest]]:
        """Takes all requests that there are, and tells whether others may follow.

        Args:
            patience: Seconds to wait for a first one; ``None`` for as long as it takes.
            wait: False if none can come any more.
        """
        if not wait:
            time.sleep(patience or 0.0)
            return False, []
        batch: list[AnyRequest] = []
        while len(batch) < _MOST_AT_ONCE:
            try:
                one = self._queue.get(not batch, patience)
            except queue.Empty:
                break
            if one is None:
                return False, batch
            batch.append(one)
        return True, batch

    def _run(self, requests: list[AnyRequest]) -> list[AnyRequest]:
        """Answers requests, and returns those that have to wait for another transaction."""
        writes: list[AnyRequest] = []
        for one in requests:
            if type(one) is Prepare:
                self._prepare(one)
            elif type(one) is not Flush:
                writes.append(one)
        locked = self._group.run(writes) if writes else []
        now, still = time.monotonic(), []
        for one in locked:
            if now < self._locked_until.setdefault(id(one), now + self._settings.lock_timeout):
                still.append(one)
            else:
                one.error = StoreUnavailable("another transaction has locked the operation's record")
        self._locked_until = {id(one): self._locked_until[id(one)] for one in still}
        return still

    def _prepare(self, request: Prepare) -> None:
        request.value = None
        for last in (False, True):
            try:
                self.identity = tables.prepare(self._connected(True), self._sql, migrate=self._settings.migrate)
                return
            except (psycopg.Error, StoreError) as error:
                again = faults.is_broken(error)
                if again or (isinstance(error, psycopg.Error) and self._sessions.fell_back(error)):
                    self._drop()
                    if not last:
                        continue
                request.error = faults.translated(error, sent=False)
                return

    def _connected(self, durable: bool) -> Connection:
        db = self._connections.get(durable)
        if db is not None and is_lost(db):
            self._drop()
            db = None
        if db is None:
            try:
                self._connections[durable] = db = psycopg.connect(**self._settings.arguments)
                self._sessions.begin(db, own=True, durable=durable)
            except psycopg.Error as error:
                self._drop()
                raise faults.translated(error, sent=False) from error
        elif self._sessions.pooled:
            db.prepare_threshold = None
        return db

    def _drop(self) -> None:
        """Closes the connections. If one is lost, the other is likely to be lost, too."""
        while self._connections:
            _, db = self._connections.popitem()
            with contextlib.suppress(psycopg.Error):
                db.close()
