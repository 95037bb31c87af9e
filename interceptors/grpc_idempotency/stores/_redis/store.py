"""The Redis stores for ``grpc.aio`` and for ``grpc.server``: an engine answers the calls of the contract."""

from grpc_idempotency.stores._calls.aio import AsyncCalls
from grpc_idempotency.stores._calls.requests import Request
from grpc_idempotency.stores._calls.sync import Calls
from grpc_idempotency.stores._redis.base import Opening, RedisBase


class AsyncRedisStore(RedisBase, AsyncCalls):
    """The Redis store whose calls are awaited; its settings are those of :class:`RedisBase`."""

    async def open(self) -> None:
        """Connects to the server, and checks its settings."""
        if not self._is_open():
            await self._ask(Request[None](), (Opening(self), None))

    async def close(self) -> None:
        """Waits for the calls that have begun, and closes the connections."""
        left = self._leave()
        if left is not None:
            await self._ask(Request[None](), (left, None))


class RedisStore(RedisBase, Calls):
    """The Redis store whose calls block; its settings are those of :class:`RedisBase`."""

    def open(self) -> None:
        """Connects to the server, and checks its settings."""
        if not self._is_open():
            self._ask(Request[None](), (Opening(self), None))

    def close(self) -> None:
        """Waits for the calls that have begun, and closes the connections."""
        left = self._leave()
        if left is not None:
            self._ask(Request[None](), (left, None))
