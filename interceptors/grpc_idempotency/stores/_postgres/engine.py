"""The engine of a database in this process: its parts have connections of their own."""

import threading
from typing import Any

from grpc_idempotency.errors import StoreError, StoreUnavailable
from grpc_idempotency.stores._calls.batches import Watched
from grpc_idempotency.stores._calls.requests import Request, TransactionRequest, deliver
from grpc_idempotency.stores._postgres.async_pool import AsyncPools
from grpc_idempotency.stores._postgres.kinds import WRITTEN
from grpc_idempotency.stores._postgres.pool import Lane
from grpc_idempotency.stores._postgres.reads import READ, Reads
from grpc_idempotency.stores._postgres.requests import Flush, Prepare
from grpc_idempotency.stores._postgres.running import Transactions
from grpc_idempotency.stores._postgres.settings import Sessions, Settings
from grpc_idempotency.stores._postgres.sql import Sql
from grpc_idempotency.stores._postgres.writer import Writer

_READERS = 4
_WRITER = WRITTEN | {Prepare, Flush}


class PostgresEngine:
    """Answers the requests of all stores of this process on one schema of one database."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sql = Sql(settings.schema, settings.clock)
        self.failure: StoreError | None = None
        """Why no request can be submitted: it is closed."""
        self.closed = threading.Event()
        """Set when no connection is open any more."""
        self._lock = threading.Lock()
        sessions = Sessions(settings)
        self._reads = Lane(settings, sessions, _READERS, Reads(self.sql, sessions).answer, own=True)
        self._running = Transactions(self.sql, sessions)
        self._transactions = Lane(settings, sessions, settings.max_connections, self._running.answer, own=False)
        self._awaited = AsyncPools(settings, sessions)
        self._writer = Writer(settings, self.sql, sessions, self._end, self._crowded)

    @property
    def identity(self) -> str | None:
        """The identity of the database's operations, once it is known."""
        return self._writer.identity

    @property
    def watched(self) -> Watched:
        """The stores whose observers are told of each batch of the writer."""
        return self._writer.watched

    def submit(self, request: Request[Any]) -> None:
        """See :class:`Engine`."""
        kind = type(request)
        with self._lock:  # a request comes before the end, or is refused
            failure = self.failure
            if failure is None and kind in _WRITER:
                self._writer.submit(request)
                return
        if failure is not None:
            request.error = failure
            deliver([request])
        elif kind in READ:
            self._reads.submit(request)
        else:
            self._transactions.submit(request)

    async def transact(self, request: TransactionRequest) -> None:
        """Answers a request whose function is an ``async def`` one, in the running loop."""
        if self.failure is not None:
            raise self.failure
        await self._running.run(self._awaited, request)

    async def leave_loop(self) -> None:
        """Closes the connections of the running loop."""
        await self._awaited.close()

    def close(self, farewell: Request[Any] | None = None) -> None:
        """Finishes what has begun, closes the connections, and answers ``farewell``."""
        with self._lock:
            if self.failure is None:
                self.failure = StoreUnavailable(f"the store on {self.settings.place} is closed")
                self._writer.close(farewell)
                return
        if farewell is not None:
            farewell.value = None
            deliver([farewell])

    def abandon(self) -> None:
        """Drops the connections in a forked child. It sends nothing on them: they are the parent's."""
        self.failure = StoreUnavailable(
            f"the store on {self.settings.place} was open when the process was forked; open it again"
        )
        self.closed.set()

    def _crowded(self) -> bool:
        """Returns ``True`` if transactions wait for connections."""
        return self._transactions.crowded() or self._awaited.crowded()

    def _end(self, farewells: list[Request[Any]]) -> None:
        """Ends the other parts after the writer, in the writer's thread."""
        self._reads.close()
        self._transactions.close()
        self.closed.set()
        deliver(farewells)
