"""The PostgreSQL stores for ``grpc.aio`` and for ``grpc.server``."""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, overload

import psycopg

from grpc_idempotency.errors import StoreError
from grpc_idempotency.records import Step
from grpc_idempotency.stores._calls.aio import AsyncTransactionalCalls
from grpc_idempotency.stores._calls.nesting import refuse_inside
from grpc_idempotency.stores._calls.requests import TransactionRequest
from grpc_idempotency.stores._calls.sync import TransactionalCalls
from grpc_idempotency.stores._calls.transactions import Caller
from grpc_idempotency.stores._postgres import complete_in
from grpc_idempotency.stores._postgres.base import PostgresBase
from grpc_idempotency.stores._postgres.requests import Flush, Prepare
from grpc_idempotency.transactions import Database

T = TypeVar("T")


class AsyncPostgresStore(PostgresBase, AsyncTransactionalCalls):
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
        engine, leaving = self._engine, self._take_leave()
        if leaving is not None:
            await self._ask(Flush(), (leaving, None))
            if engine is not None and engine.failure is not None:
                await engine.leave_loop()

    @overload
    def transaction(
        self, fn: Callable[[Database], T], *, step: Callable[[T], Step] | None = None
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def transaction(
        self, fn: Callable[[psycopg.AsyncConnection[Any]], Awaitable[T]], *, step: Callable[[T], Step] | None = None
    ) -> Coroutine[Any, Any, T]: ...
    def transaction(self, fn: Any, *, step: Any = None) -> Coroutine[Any, Any, Any]:
        """Runs a function in one transaction, with a keyed call's outcome or a step in it (5.1).

        The operation is that of the caller; the returned coroutine may be awaited in another task.

        Args:
            fn: A plain function ``fn(db)``, which runs in a thread of the store's. Or an ``async def fn(connection)``,
                which runs in the caller's loop with a psycopg connection that can't end the transaction; blocks of
                ``connection.transaction()`` in it are savepoints. If its caller is cancelled, it is, too, and is rolled
                back unless its commit has begun.
            step: Makes a step from the function's result. The step is stored instead of the outcome.
        """
        return super().transaction(fn, step=step)

    def complete_in(self, connection: Any, reply: T) -> Coroutine[Any, Any, T]:
        """Writes the outcome of a keyed call in a transaction that the handler has opened itself (5.6).

        Rows and outcome commit together when the handler commits, before it ends; or neither does. An ORM session is
        flushed first. In a call without a key nothing else happens. The operation is that of the caller; the returned
        coroutine may be awaited in another task.

        Args:
            connection: A connection to the store's database that is awaited, with an open transaction: of psycopg,
                asyncpg or SQLAlchemy, or an ``AsyncSession``. It must be able to change the store's tables.
            reply: The handler's reply.

        Returns:
            The reply.

        Raises:
            FenceRefused: The operation has another owner by now. The handler must roll back.
            TransactionMisuse: The connection has no transaction, or the call has committed a reply already, or its
                status is no success, or this is not the handler's own task.
        """
        return self._complete_in(connection, reply, Caller())

    async def _complete_in(self, connection: Any, reply: T, caller: Caller) -> T:
        await self.open()
        operation = caller.operation(self)
        await complete_in.flush_async(connection)
        if operation is not None:
            outcome = complete_in.outcome_of(operation, reply)
            await complete_in.write_async(connection, self._sql, operation, outcome)
        return reply

    async def _transact(self, request: TransactionRequest) -> Any:
        if not inspect.iscoroutinefunction(request.fn):
            return await super()._transact(request)
        refuse_inside()
        request.begin()
        try:
            await self.open()
        except BaseException as error:
            request.error = error
            request.end()
            raise
        engine = self._engine
        assert engine is not None
        # The task has the request's context, in which the operation is the function's own.
        task = request.context.run(asyncio.ensure_future, engine.transact(request))
        task.add_done_callback(functools.partial(_ended, request))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()  # it ends all the same if its commit has begun
            await asyncio.wait([task])
            raise
        return request.value


def _ended(request: TransactionRequest, task: "asyncio.Task[None]") -> None:
    """Tells the operation the result of a transaction."""
    request.error = asyncio.CancelledError() if task.cancelled() else task.exception()
    request.end()


class PostgresStore(PostgresBase, TransactionalCalls):
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

    def complete_in(self, connection: Any, reply: T) -> T:
        """Writes the outcome of a keyed call in a transaction that the handler has opened itself (5.6).

        Rows and outcome commit together when the handler commits, before it ends; or neither does. An ORM session is
        flushed first. In a call without a key nothing else happens.

        Args:
            connection: A connection to the store's database with an open transaction: of psycopg, SQLAlchemy, a
                ``Session``, or Django's ``connection``. It must be able to change the store's tables.
            reply: The handler's reply.

        Returns:
            The reply.

        Raises:
            FenceRefused: The operation has another owner by now. The handler must roll back.
            TransactionMisuse: The connection has no transaction, or the call has committed a reply already, or its
                status is no success, or this is not the handler's own thread.
        """
        self.open()
        operation = Caller().operation(self)
        complete_in.flush(connection)
        if operation is not None:
            complete_in.write(connection, self._sql, operation, complete_in.outcome_of(operation, reply))
        return reply
