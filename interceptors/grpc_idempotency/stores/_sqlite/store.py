"""The SQLite stores for ``grpc.aio`` and for ``grpc.server``: a file's writer answers the calls of the contract."""

from grpc_idempotency.errors import StoreError
from grpc_idempotency.stores._calls.aio import AsyncOneCommitCalls
from grpc_idempotency.stores._calls.sync import OneCommitCalls
from grpc_idempotency.stores._sqlite.base import SQLiteBase
from grpc_idempotency.stores._sqlite.requests import Flush, Prepare


class AsyncSQLiteStore(SQLiteBase, AsyncOneCommitCalls):
    """The SQLite store whose calls are awaited; its settings are those of :class:`SQLiteBase`."""

    async def open(self) -> None:
        """Opens the file, and creates, migrates or only checks the tables."""
        acquired = self._acquire()
        if acquired is None:
            return
        try:
            await self._ask(Prepare(self._migrate), acquired)
        except StoreError:
            self._give_up(acquired[0])
            raise
        self._prepared(*acquired)

    async def close(self) -> None:
        """Waits for the calls that have begun. Closes the file if this is its last store in this process."""
        left = self._take_leave()
        if left is not None:
            await self._ask(Flush(), left)


class SQLiteStore(SQLiteBase, OneCommitCalls):
    """The SQLite store whose calls block; its settings are those of :class:`SQLiteBase`."""

    def open(self) -> None:
        """Opens the file, and creates, migrates or only checks the tables."""
        acquired = self._acquire()
        if acquired is None:
            return
        try:
            self._ask(Prepare(self._migrate), acquired)
        except StoreError:
            self._give_up(acquired[0])
            raise
        self._prepared(*acquired)

    def close(self) -> None:
        """Waits for the calls that have begun. Closes the file if this is its last store in this process."""
        left = self._take_leave()
        if left is not None:
            self._ask(Flush(), left)
