"""The peer: a guard on aiosqlite, as an engineer would write it by hand.

First calls are compared with it: one row per key, two commits per call. It does less than the library. If a server
dies in a handler, its key is blocked for ever. A duplicate of a running call is refused instead of answered. Failures
are not replayed, nothing expires, and keys have no principal.
"""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, cast

import aiosqlite
import grpc
import grpc.aio

TABLE = "CREATE TABLE IF NOT EXISTS calls (key TEXT PRIMARY KEY, request BLOB NOT NULL, reply BLOB)"
_CLAIM = "INSERT INTO calls (key, request) VALUES (?, ?) ON CONFLICT (key) DO NOTHING"
_STORE = "UPDATE calls SET reply = ? WHERE key = ?"
_LOOK = "SELECT request, reply FROM calls WHERE key = ?"
_FORGET = "DELETE FROM calls WHERE key = ?"


class Guard(grpc.aio.ServerInterceptor):
    """Runs the first unary call of each key, and answers later ones with its reply.

    Args:
        db: An open connection with implicit transactions, to a database that has ``TABLE``. Calls that wait at the same
            time share a commit.
    """

    def __init__(self, db: aiosqlite.Connection) -> None:
        self._db = db

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """Wraps the handler of a keyed call."""
        handler = await continuation(details)
        key = dict(details.invocation_metadata).get("idempotency-key")
        if handler is None or handler.unary_unary is None or not isinstance(key, str):
            return handler
        name = f"{details.method} {key}"

        async def guarded(request: bytes, context: Any) -> bytes:
            digest = hashlib.sha256(request).digest()
            claim = await self._db.execute(_CLAIM, (name, digest))
            await self._db.commit()
            if not claim.rowcount:
                return await self._replay(name, digest, context)
            try:
                reply: bytes = handler.response_serializer(
                    await handler.unary_unary(handler.request_deserializer(request), context)
                )
            except Exception:
                await self._db.execute(_FORGET, (name,))
                await self._db.commit()
                raise
            await self._db.execute(_STORE, (reply, name))
            await self._db.commit()
            return reply

        return grpc.unary_unary_rpc_method_handler(guarded)

    async def _replay(self, name: str, digest: bytes, context: Any) -> bytes:
        async with self._db.execute(_LOOK, (name,)) as rows:
            row = await rows.fetchone()
        stored, reply = row if row is not None else (digest, None)
        if stored != digest:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this key came with another request")
        if reply is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "a call with this key is running")
        return cast(bytes, reply)
