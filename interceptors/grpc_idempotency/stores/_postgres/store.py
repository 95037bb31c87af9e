"""The PostgreSQL stores for ``grpc.aio`` and for ``grpc.server``."""

from grpc_idempotency.errors import StoreError
from grpc_idempotency.stores._calls.aio import AsyncCalls
from grpc_idempotency.stores._calls.sync import Calls
from grpc_idempotency.stores._postgres.base import PostgresBase
from grpc_idempotency.stores._postgres.requests import Flush, Prepare


class AsyncPostgresStore(PostgresBase, AsyncCalls):
    """The PostgreSQL store whose calls are awaited; its settings are those of :class:`PostgresBase`."""

    async def open(self) -> None:
        """Connects, and creates or migrates the tables."""
        engine = self._acquire()
        if engine is None:
            return
        try:
            await self._ask(Prepare(), (engine, None))
        except StoreError:
            self._give_up(engine)
            raise
        self._prepared(engine)

    async def close(self) -> None:
        """Waits for the calls that have begun. Closes the connections if no other store of this process uses them."""
        leaving = self._take_leave()
        if leaving is not None:
            await self._ask(Flush(), (leaving, None))


class PostgresStore(PostgresBase, Calls):
    """The PostgreSQL store whose calls block; its settings are those of :class:`PostgresBase`."""

    def open(self) -> None:
        """Connects, and creates or migrates the tables."""
        engine = self._acquire()
        if engine is None:
            return
        try:
            self._ask(Prepare(), (engine, None))
        except StoreError:
            self._give_up(engine)
            raise
        self._prepared(engine)

    def close(self) -> None:
        """Waits for the calls that have begun. Closes the connections if no other store of this process uses them."""
        leaving = self._take_leave()
        if leaving is not None:
            self._ask(Flush(), (leaving, None))
