"""Connections for ``async def`` functions of transactions: a pool for each event loop, to which they belong."""

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.stores._postgres.guard import LentConnection, LentCursor
from grpc_idempotency.stores._postgres.pool import PATIENCE, waits_for
from grpc_idempotency.stores._postgres.settings import Sessions, Settings

_Pool = AsyncConnectionPool[LentConnection]


class AsyncPools:
    """The pools of one engine."""

    def __init__(self, settings: Settings, sessions: Sessions) -> None:
        self._settings = settings
        self._sessions = sessions
        self._lock = threading.Lock()
        self._pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = weakref.WeakKeyDictionary()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[LentConnection]:
        """Lends a connection of the running loop, in autocommit mode. One that was lost is replaced."""
        pool = self._pool()
        try:
            await pool.open()
            db = await pool.getconn()
            while self._sessions.is_stale(db):
                await db.close()
                await pool.putconn(db)
                db = await pool.getconn()
        except (PoolTimeout, PoolClosed) as error:
            raise StoreUnavailable(f"PostgreSQL gave no connection: {error}") from error
        broken = True
        try:
            if self._sessions.pooled:
                db.prepare_threshold = None
            yield db
            broken = False
        except asyncio.CancelledError:
            raise  # the statement may still run
        except psycopg.Error as error:
            broken = self._sessions.noted(error)
            raise
        except BaseException:
            broken = False
            raise
        finally:
            if broken:
                await db.close()
            await pool.putconn(db)

    def crowded(self) -> bool:
        """Returns ``True`` if functions wait for a connection, in any loop. May be called in any thread."""
        with self._lock:
            pools = list(self._pools.values())
        return any(waits_for(pool) for pool in pools)

    async def close(self) -> None:
        """Closes the connections of the running loop."""
        with self._lock:
            pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.close()

    def _pool(self) -> _Pool:
        loop = asyncio.get_running_loop()
        with self._lock:
            pool = self._pools.get(loop)
            if pool is None:
                pool = self._pools[loop] = AsyncConnectionPool(
                    kwargs=self._settings.arguments | {"cursor_factory": LentCursor},
                    connection_class=LentConnection,
                    min_size=0,
                    max_size=self._settings.max_connections,
                    open=False,
                    configure=self._configure,
                    timeout=PATIENCE,
                    reconnect_timeout=PATIENCE,
                    num_workers=1,
                    name="grpc-idempotency",
                )
            return pool

    async def _configure(self, db: LentConnection) -> None:
        self._sessions.began(db)
        if self._sessions.pooled:
            db.prepare_threshold = None
        else:
            await db.execute(*self._sessions.session(own=False))
