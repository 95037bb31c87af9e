"""The part that the PostgreSQL stores for asyncio and for threads share: settings, and the use of the engine."""

import threading
import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from grpc_idempotency import _checks
from grpc_idempotency.errors import PolicyError
from grpc_idempotency.stores._calls.batches import Batches
from grpc_idempotency.stores._calls.nesting import refuse_inside
from grpc_idempotency.stores._calls.requests import Engine, Request
from grpc_idempotency.stores._postgres import registry
from grpc_idempotency.stores._postgres.engine import PostgresEngine
from grpc_idempotency.stores._postgres.settings import Settings
from grpc_idempotency.stores._postgres.sql import SERVER_CLOCK, Sql

_LOCK_TIMEOUT = timedelta(seconds=5)
_LONGEST = timedelta(days=1)
_MAX_CONNECTIONS = 10


class PostgresBase:
    """Keeps operations in a PostgreSQL database, which may be the embedder's own. Many hosts can share it.

    All stores of a process with equal settings share their connections: one that writes all requests that wait in one
    transaction, another for claims of transactional operations, up to four for reads, and up to ``max_connections`` for
    transactions. They are opened when they are needed.

    Args:
        conninfo: A connection string of libpq: ``postgresql://user@host:port/database?options``, or ``key=value``
            words.
        schema: The schema of the store's tables: letters, digits and underscores.
        lock_timeout: How long a statement waits for a lock that another transaction holds, at most a day.
        max_connections: The maximum number of ``transaction`` and ``read`` calls at a time; others wait. Those with an
            ``async def`` function are counted by themselves, for each event loop.
        transaction_pooler: True if the connections go through a pooler in transaction mode. Then no statement is
            prepared, and settings are made for each transaction. PgBouncer is recognised without it.
        migrate: False to refuse tables that are missing or old, instead of creating or migrating them.
    """

    _opened: tuple[Engine, Any] | None

    def __init__(
        self,
        conninfo: str,
        *,
        schema: str = "idempotency",
        lock_timeout: timedelta = _LOCK_TIMEOUT,
        max_connections: int = _MAX_CONNECTIONS,
        transaction_pooler: bool = False,
        migrate: bool = True,
        _clock: str = SERVER_CLOCK,
    ) -> None:
        _checks.one_of("conninfo", conninfo, str)
        try:
            conninfo_to_dict(conninfo)
        except psycopg.ProgrammingError:
            # Without the driver's text, and without the value: either may contain the password.
            raise PolicyError("conninfo is not a connection string of PostgreSQL") from None
        _checks.duration("lock_timeout", lock_timeout, zero=False, longest=_LONGEST)
        self._settings = Settings(
            conninfo=conninfo,
            schema=schema,
            lock_timeout=lock_timeout.total_seconds(),
            max_connections=_checks.number("max_connections", max_connections, least=1),
            transaction_pooler=_checks.flag("transaction_pooler", transaction_pooler),
            migrate=_checks.flag("migrate", migrate),
            clock=_clock,
        )
        self._sql = Sql(schema, _clock)
        self._batches = Batches()
        self._lock = threading.Lock()
        self._engine: PostgresEngine | None = None
        self._identity: str | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None

    @property
    def identity(self) -> str | None:
        """The id of the operations in their database, for each schema; ``None`` before the store was opened first.

        A copy of the database has the same identity, so one server must not use both.
        """
        return self._identity

    def observe(self, committed: Callable[[int, float], object]) -> Callable[[], object]:
        """See :class:`grpc_idempotency.store.ObservableStore`: what the writer sends together is
        one batch, of all stores of this process with equal settings.
        """
        end = self._batches.add(committed)
        with self._lock:
            if self._engine is not None:
                self._engine.watched.add(self._batches)
        return end

    def ddl(self, *, since: int = 0) -> str:
        """Returns the SQL that creates or migrates the tables, as one transaction. Opens nothing.

        For databases in which only an operator creates tables; servers then have ``migrate=False``.

        Args:
            since: The version of the tables that exist; 0 if there are none.

        Raises:
            PolicyError: There is no such version.
        """
        return Sql(self._settings.schema).ddl(since)

    # -- within

    def _acquire(self) -> PostgresEngine | None:
        """Returns the engine that ``open`` has to prepare; ``None`` if the store is open."""
        refuse_inside()
        with self._lock:
            engine = self._engine
            if engine is None or engine.failure is not None:
                self._let_go()
                self._engine = engine = registry.acquire(self._settings)
                if self._batches.observers:
                    engine.watched.add(self._batches)
                self._finalizer = weakref.finalize(self, registry.engines.release, engine)
                self._finalizer.atexit = False  # at exit the registry closes all engines, and waits for them
            return None if self._opened is not None else engine

    def _prepared(self, engine: PostgresEngine) -> None:
        """Sends requests to the engine from now on: the tables are ready."""
        with self._lock:
            if self._engine is engine:
                self._identity = engine.identity
                self._opened = engine, None

    def _give_up(self, engine: PostgresEngine) -> None:
        """Releases an engine that could not open, so that the next call tries again."""
        with self._lock:
            if self._engine is engine:
                self._let_go()

    def _take_leave(self) -> Engine | None:
        """Returns the engine for the last request of ``close``; ``None`` if the store has none."""
        refuse_inside()
        with self._lock:
            engine, finalizer = self._engine, self._finalizer
            self._engine = self._finalizer = self._opened = None
        if engine is None or finalizer is None or not finalizer.detach():
            return None
        return _Leaving(engine)

    def _let_go(self) -> None:
        finalizer, self._finalizer = self._finalizer, None
        self._engine = self._opened = None
        if finalizer is not None:
            finalizer()


class _Leaving:
    """The engine for a store's last request: it releases the engine, and answers once all earlier writes are done."""

    failure = None

    def __init__(self, engine: PostgresEngine) -> None:
        self._engine = engine

    def submit(self, request: Request[Any]) -> None:
        """See :class:`Engine`."""
        registry.engines.release(self._engine, request)
