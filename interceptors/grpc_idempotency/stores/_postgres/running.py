"""Runs the plans of transactions on connections of both kinds."""

import asyncio
import time
from contextlib import suppress
from typing import Any

import psycopg

from grpc_idempotency import _jitter
from grpc_idempotency.errors import StoreUnavailable, TransactionMisuse
from grpc_idempotency.stores._calls.nesting import inside
from grpc_idempotency.stores._calls.requests import TransactionRequest
from grpc_idempotency.stores._postgres import faults
from grpc_idempotency.stores._postgres.async_pool import AsyncPools
from grpc_idempotency.stores._postgres.guard import Guard, LentConnection
from grpc_idempotency.stores._postgres.pool import Lane
from grpc_idempotency.stores._postgres.settings import Connection, Sessions
from grpc_idempotency.stores._postgres.sql import Sql
from grpc_idempotency.stores._postgres.transactions import (
    Begin,
    Call,
    Commit,
    LookAgain,
    Rollback,
    Send,
    Unrun,
    Want,
    finished,
    refuse_awaitable,
    transacted,
)
from grpc_idempotency.stores._postgres.view import View

_TRIES = 8
"""How often a function is run whose transaction meets conflicts."""
_MOST_READ_ONLY = 2
"""How often a function is run again whose connection could not write."""
_SHORTEST_PAUSE = 0.005
"""Seconds between two runs, at most, after the first one; it doubles with each."""


class Transactions:
    """Runs the functions of transactions and reads."""

    def __init__(self, sql: Sql, sessions: Sessions) -> None:
        self._sql = sql
        self._sessions = sessions

    # -- in threads

    def answer(self, lane: Lane, request: TransactionRequest) -> None:
        """Answers a request whose function is a plain one."""
        for n in range(_TRIES):
            try:
                with lane.connection() as db:
                    self._drive(lane, db, request)
                return
            except BaseException as error:
                _again(error, n)
                time.sleep(_pause(n))

    def _drive(self, lane: Lane, db: Connection, request: TransactionRequest) -> None:
        plan = transacted(request)
        try:
            want = next(plan)
            while True:
                try:
                    got = self._perform(lane, db, request, want)
                except BaseException as error:
                    want = plan.throw(error)
                else:
                    want = plan.send(got)
        except StopIteration:
            return

    def _perform(self, lane: Lane, db: Connection, request: TransactionRequest, want: Want) -> Any:
        match want:
            case Send(statement, parameters):
                cursor = db.execute(self._sql[statement], parameters, binary=True)
                return cursor.fetchall() if cursor.description else []
            case Begin(statement):
                db.execute(statement.encode())
                if self._sessions.pooled:
                    db.execute(*self._sessions.local(own=False))
            case Call(guard):
                return request.context.run(_call, request, View(db, guard))
            case Commit():
                db.execute("COMMIT")
            case Rollback():
                with suppress(psycopg.Error):
                    db.execute("ROLLBACK")
            case LookAgain(send):
                with lane.connection() as other:
                    return self._perform(lane, other, request, send)
        return None

    # -- in an event loop

    async def run(self, pools: AsyncPools, request: TransactionRequest) -> None:
        """Answers a request whose function is an ``async def`` one, in the loop and the context of the caller."""
        for n in range(_TRIES):
            try:
                async with pools.connection() as db:
                    await self._drive_async(pools, db, request)
                return
            except BaseException as error:
                _again(error, n)
                await asyncio.sleep(_pause(n))

    async def _drive_async(self, pools: AsyncPools, db: LentConnection, request: TransactionRequest) -> None:
        plan = transacted(request)
        try:
            want = next(plan)
            while True:
                try:
                    got = await self._perform_async(pools, db, request, want)
                except BaseException as error:
                    want = plan.throw(error)
                else:
                    want = plan.send(got)
        except StopIteration:
            return

    async def _perform_async(
        self, pools: AsyncPools, db: LentConnection, request: TransactionRequest, want: Want
    ) -> Any:
        match want:
            case Send(statement, parameters):
                cursor = await db.execute(self._sql[statement], parameters, binary=True)
                return await cursor.fetchall() if cursor.description else []
            case Begin(statement):
                await db.execute(statement.encode())
                if self._sessions.pooled:
                    await db.execute(*self._sessions.local(own=False))
            case Call(guard):
                return await _call_async(request, db, guard)
            case Commit():
                await _commit(db)
            case Rollback():
                with suppress(psycopg.Error):
                    await db.execute("ROLLBACK")
            case LookAgain(send):
                async with pools.connection() as other:
                    return await self._perform_async(pools, other, request, send)
        return None


def _call(request: TransactionRequest, view: View) -> bool:
    """Runs the plain function in its caller's context, and returns ``True`` if its rows may stay."""
    inside.set(view)
    try:
        request.value = request.fn(view)
    except StopIteration as error:
        raise RuntimeError("the transaction's function raised StopIteration") from error
    refuse_awaitable(request.value)
    view.finish()
    return finished(request)


async def _call_async(request: TransactionRequest, db: LentConnection, guard: Guard) -> bool:
    """Runs the ``async def`` function, and returns ``True`` if its rows may stay."""
    token = inside.set(guard)
    db.guard = guard
    try:
        fn: Any = request.fn
        request.value = await fn(db)
        guard.require(db.info.transaction_status)
        db.guard = None
        return finished(request)
    finally:
        db.guard = None
        inside.reset(token)


async def _commit(db: LentConnection) -> None:
    """Commits. A commit that has begun ends, even if the caller is cancelled."""
    commit = asyncio.ensure_future(db.execute("COMMIT"))
    try:
        await asyncio.shield(commit)
    except asyncio.CancelledError:
        await asyncio.wait([commit])
        commit.result()


def _again(error: BaseException, n: int) -> None:
    """Returns if a transaction is to be run again after its ``n``-th run; else raises the error of the call."""
    lost = error.__cause__ if isinstance(error, Unrun) else error
    assert lost is not None
    # A connection from before a failover, or from its midst: another one of the pool may be able to write.
    again = faults.is_conflict(lost) or (faults.state_of(lost) == faults.READ_ONLY and n < _MOST_READ_ONLY)
    if isinstance(error, Unrun):
        again = again or faults.is_broken(lost) or faults.lost_session(lost)
    if again and n < _TRIES - 1:
        return
    if faults.is_fault(lost) and not isinstance(lost, StoreUnavailable | TransactionMisuse):
        raise faults.translated(lost, sent=False) from lost
    raise lost


def _pause(n: int) -> float:
    return _jitter.uniform(0, _SHORTEST_PAUSE * 2**n)
