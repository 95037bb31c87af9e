"""Pools of connections, with the threads that use them, for reads and for transactions (6.2)."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolClosed, PoolTimeout

from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.stores._calls.requests import Request, deliver
from grpc_idempotency.stores._postgres.settings import Connection, Sessions, Settings

AnyPool = ConnectionPool[Any] | AsyncConnectionPool[Any]
AnyRequest = Request[Any]
PATIENCE = 5.0
"""Seconds that a request waits for a connection."""


def waits_for(pool: AnyPool) -> bool:
    """Returns ``True`` if somebody waits for a connection of a pool."""
    return pool.get_stats()["requests_waiting"] > 0


class Lane:
    """Answers requests on connections of a pool. A request of a thread is answered in that thread.

    Args:
        settings: The engine's settings.
        sessions: The settings of connections.
        size: The maximum number of connections.
        run: Called with the lane and a request in one of the lane's threads or in the caller's; it sets the value, or
            raises.
        own: True if the connections run the store's statements alone.
    """

    def __init__(
        self, settings: Settings, sessions: Sessions, size: int, run: Callable[["Lane", Any], object], *, own: bool
    ) -> None:
        self._run = run
        self._own = own
        self._size = size
        self._sessions = sessions
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[AnyRequest | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            kwargs=settings.arguments,
            min_size=0,
            max_size=size,
            open=False,
            configure=self._configure,
            timeout=PATIENCE,
            reconnect_timeout=PATIENCE,
            num_workers=1,
            name="grpc-idempotency",
        )

    def crowded(self) -> bool:
        """Returns ``True`` if requests wait for a connection."""
        return self._queue.qsize() > 0 or waits_for(self._pool)

    def submit(self, request: AnyRequest) -> None:
        """Answers a request, or queues it if its caller is an event loop."""
        if request.loop is None:
            self._answer(request)
            return
        with self._lock:
            if not self._closed and (self._queue.qsize() < self._idle or self._grow()):
                self._queue.put(request)
                return
        request.error = StoreUnavailable("the store is closed, or the process can start no thread for the call")
        deliver([request])

    def close(self) -> None:
        """Ends the threads after the requests that are queued, and closes the connections. Blocks until then."""
        with self._lock:
            self._closed = True
            threads = list(self._threads)
            for _ in threads:
                self._queue.put(None)
        for thread in threads:
            thread.join()
        self._pool.close()

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lends a connection in autocommit mode.

        One that was left within a transaction is rolled back, and one that was lost is replaced.
        """
        pool = self._pool
        try:
            pool.open()
            db = pool.getconn()
            while self._sessions.is_stale(db):
                db.close()
                pool.putconn(db)
                db = pool.getconn()
        except (PoolTimeout, PoolClosed) as error:
            raise StoreUnavailable(f"PostgreSQL gave no connection: {error}") from error
        broken = False
        try:
            if self._sessions.pooled:
                db.prepare_threshold = None
            yield db
        except psycopg.Error as error:
            broken = self._sessions.noted(error)
            if broken:
                db.close()
            raise
        finally:
            pool.putconn(db)
            if broken:
                pool.check()  # the others are likely to be lost, too

    def _configure(self, db: Connection) -> None:
        self._sessions.begin(db, own=self._own)

    def _grow(self) -> bool:
        """Starts one more thread, if there may be more. Returns ``False`` if there is none."""
        if len(self._threads) < self._size:
            name = f"grpc-idempotency-postgres-{len(self._threads)}"
            thread = threading.Thread(target=self._serve, name=name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the process can have no more
                return bool(self._threads)
            self._threads.append(thread)
        return True

    def _serve(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            request = self._queue.get()
            with self._lock:
                self._idle -= 1
            if request is None:
                return
            self._answer(request)

    def _answer(self, request: AnyRequest) -> None:
        try:
            self._run(self, request)
        except BaseException as error:  # whatever a transaction's function raises goes to its caller
            request.error = error
        deliver([request])
