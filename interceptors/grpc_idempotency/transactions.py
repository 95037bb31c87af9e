"""The contract of a store whose database can also hold a handler's rows (5.1).

Such a store has two more calls than :mod:`grpc_idempotency.store` asks for: ``transaction`` and ``read``. It may have a
third one, ``complete_unclaimed``. It takes part in the operation that the handler runs in: its ``transaction`` calls
:func:`running_operation` to get that operation, and uses it as :class:`RunningOperation` describes.
"""

import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

from grpc_idempotency._operation.ambient import HOLDER, Holder
from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.records import Claim, Outcome, Record, Step
from grpc_idempotency.store import AsyncStore, Store

T = TypeVar("T")


class Rows(Protocol):
    """The result of a statement. All rows have been fetched."""

    @property
    def rowcount(self) -> int:
        """The number of rows that an INSERT, UPDATE or DELETE changed; -1 for other statements."""

    def fetchone(self) -> tuple[Any, ...] | None:
        """Returns the next row, or ``None`` after the last one."""

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Returns the remaining rows."""


class Database(Protocol):
    """The database as a transaction's function sees it: it can run statements, but not control the transaction.

    BEGIN, COMMIT, ROLLBACK, SAVEPOINT and statements that would outlast the transaction raise
    :class:`~grpc_idempotency.errors.TransactionMisuse`, on SQLite also statements that would change the store's own
    tables. Several statements in one string raise the driver's error.

    Parameters are written in the engine's own style; nothing is translated. The exceptions of PEP 249 are attributes,
    as PEP 249 allows, so that ``except db.IntegrityError`` needs no import of the driver.
    """

    Warning: type[Exception]
    Error: type[Exception]
    InterfaceError: type[Exception]
    DatabaseError: type[Exception]
    DataError: type[Exception]
    OperationalError: type[Exception]
    IntegrityError: type[Exception]
    InternalError: type[Exception]
    ProgrammingError: type[Exception]
    NotSupportedError: type[Exception]

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """Runs one statement.

        Args:
            sql: The statement.
            parameters: Its parameters, in their order.

        Returns:
            The statement's rows.

        Raises:
            TransactionMisuse: The statement would control or outlast the transaction, or the function has returned.
            Exception: An error of PEP 249, by the driver.
        """

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]]) -> Rows:
        """Runs one statement once for each row of parameters.

        Args:
            sql: The statement.
            parameters: The rows.

        Returns:
            A result whose ``rowcount`` is the total.

        Raises:
            TransactionMisuse: As with :meth:`execute`.
            Exception: An error of PEP 249, by the driver.
        """

    def savepoint(self) -> AbstractContextManager[None]:
        """Runs a block under a savepoint: an error that leaves the block rolls back the block's changes, and no others.

        So the transaction can go on after an error that is caught outside of the block, with every engine. Blocks may
        be nested.

        Returns:
            The block's context manager.
        """


class RunningOperation(Protocol):
    """A running keyed call, as its store's ``transaction`` sees it: it has a fence, and no outcome yet.

    The store gets it from :func:`running_operation` when ``transaction`` is called. The store calls
    :meth:`begin_transaction` before it queues the transaction, and :meth:`end_transaction` once the transaction is
    answered. In between it runs the function, calls :meth:`make_outcome` for the function's result, and commits rows
    and outcome together: it completes the record or, if there is a :attr:`claim`, inserts a completed one.
    """

    committed: Outcome | None
    """The outcome that a transaction of this run has committed. The store sets it before it ends the transaction."""
    completed_at: datetime | None
    """When that outcome was stored: the record's ``completed_at``. The store sets it together with ``committed``.

    If the store can't tell, it stays ``None``, and the first replay reads the record.
    """
    unconfirmed: Outcome | None
    """The outcome that the store has written in a transaction which the handler opened itself (5.6). The store sets it.

    The store does not see the end of that transaction: after the handler's end, the record tells whether it committed.
    """
    uncommitted: StoreUnavailable | None
    """The error that prevented the commit of a transaction of this run. The store sets it before it raises it."""

    @property
    def name(self) -> bytes:
        """The operation's name: 16 bytes."""

    @property
    def fence(self) -> bytes:
        """The fence of this run: 16 bytes. Only a record that is running or held under it may be completed."""

    @property
    def claim(self) -> Claim | None:
        """The claim of an operation that has no record yet; ``None`` if the claim was written by ``Store.claim`` (5.1).

        With a claim, the transaction first looks for an unexpired record of this name. If there is one, the function
        does not run, and :class:`~grpc_idempotency.errors.FenceRefused` is raised. Otherwise the function's rows are
        committed together with a new record: completed, with the claim's fence, fingerprint, effects, method,
        ``streams`` and ``trace``. An expired record is replaced. No record may appear between this check and the
        commit.
        """

    @property
    def ttl(self) -> timedelta:
        """How long the outcome is kept, counted from its commit."""

    @property
    def store(self) -> object:
        """The store that holds the operation's record. A transaction in another database does not belong to it."""

    @property
    def ended(self) -> bool:
        """``True`` once the handler has ended."""

    def make_outcome(self, reply: object) -> Outcome:
        """Makes the call's outcome from ``reply``, with the status and the trailers that are set so far.

        The store calls it within the transaction, after the transaction's function.

        Args:
            reply: The result of the transaction's function.

        Returns:
            The outcome. If its status is not OK, the transaction must be rolled back; the function's result is returned
            all the same.

        Raises:
            Exception: The response's serializer failed. The transaction must be rolled back, and raises this error.
            TransactionMisuse: One of the operation's steps is still running.
            BaseException: This run only registers how its steps are undone, and has no reply.
        """

    def accepts(self, value: object) -> bool:
        """Returns ``True`` if a value could be the call's reply, judged by its type.

        Args:
            value: The result of the function of a transaction that the handler itself did not make; see
                :func:`inherited_operation`.

        Returns:
            ``True`` if the method's serializer accepts the value.
        """

    def begin_transaction(self, transaction: object) -> None:
        """Makes the end of the operation wait for a transaction that the handler itself made, not one of a step.

        The handler may end while its transaction still runs, because it was cancelled or has left the transaction to a
        task. The outcome may be committed all the same. A store that blocks its caller until the transaction is
        answered need not call this.

        Args:
            transaction: Any object that identifies this transaction.

        Raises:
            TransactionMisuse: The handler has ended already.
        """

    def end_transaction(self, transaction: object) -> None:
        """Tells the operation that a transaction has been answered. Any thread may call it.

        A second call for the same transaction does nothing.

        Args:
            transaction: The object that :meth:`begin_transaction` was called with.
        """


def running_operation() -> RunningOperation | None:
    """Returns the operation that a transaction of the caller belongs to.

    Returns:
        The operation of the caller, which is the handler itself or one of its steps; ``None`` in an un-keyed call,
        outside of handlers, and in a task or thread that a handler has started.
    """
    holder = HOLDER.get()
    return holder.operation if holder is not None and holder.asks else None


def inherited_operation() -> RunningOperation | None:
    """Returns the operation whose handler is the calling task or thread, or has started it.

    A transaction of a task or thread that a handler has started commits no reply. Its function must not return a value
    that the operation :meth:`~RunningOperation.accepts`: in that case the handler itself was put into a task, and its
    reply would be lost.

    Returns:
        The operation, while its handler runs; else ``None``.
    """
    holder = HOLDER.get()
    return None if holder is None or holder.operation.ended else holder.operation


def bind_operation(context: contextvars.Context, operation: RunningOperation) -> None:
    """Makes an operation the current one for a transaction's function, in whatever thread the database runs it.

    Args:
        context: The context in which the function will run: a copy of its caller's.
        operation: The caller's operation.
    """
    context.run(HOLDER.set, Holder(operation, None, "a transaction's function"))


class AsyncTransactionalStore(AsyncStore, Protocol):
    """A store whose database can also hold the handler's own rows (5.1)."""

    @property
    def identity(self) -> str | None:
        """Identifies the operations: two stores with the same one have the same operations.

        It is a random id in the store's own table, written when the tables are created, and made for each prefix or
        schema. It is ``None`` before the store was opened first, and stays known after it was closed. A copy of the
        database has the same identity, so one server must not use both.
        """

    def transaction(
        self, fn: Callable[[Database], T], *, step: Callable[[T], Step] | None = None
    ) -> Coroutine[Any, Any, T]:
        """Runs a plain function in one transaction, and returns the function's result once the transaction is durable.

        If the handler itself calls it, in a keyed call of this store, the result of ``fn`` is the call's reply: the
        rows and the operation's outcome commit together, or neither does. ``transaction`` is a plain function: the
        operation is that of its caller, wherever the result is awaited. In a task or thread that a handler has started,
        it is a transaction without an operation.

        If the database rolls the transaction back while ``fn`` runs, because of a constraint, a trigger or a full disk,
        then the transaction has failed even if ``fn`` catches the error: further statements raise, and the result of
        ``fn`` is discarded.

        Args:
            fn: Called as ``fn(db)`` on the database's thread. It does no I/O except through ``db``, is short, and may
                raise an exception to roll back. It is run again if the database has rolled it back because of another
                transaction, in a conflict or since they shared a commit; so it must change nothing outside of ``db``.
            step: For :meth:`grpc_idempotency.aio.Operation.step`. Makes a step from the result of ``fn``. The step is
                stored in the same transaction, instead of the outcome.

        Returns:
            The result of ``fn``.

        Raises:
            Exception: Whatever ``fn`` raised.
            FenceRefused: The operation has another owner by now, has a record though it was not claimed, or already has
                a step of this name. Nothing is stored.
            StoreUnavailable: The transaction could not be committed.
            TransactionMisuse: This is a second transaction in a call whose first has committed. Or ``fn`` went on after
                the error that rolled its transaction back, returned the method's response in a task or thread of the
                running handler, called a store (also through a thread or a loop that it waits for), or is not a plain
                function. Or a step was given outside of a keyed call of this store.
        """

    async def read(self, fn: Callable[[Database], T]) -> T:
        """Runs a plain function that only reads, and returns its result. It sees the database as it was at one instant.

        In a keyed call the result is not the reply, so that a handler may read as often as it likes before, or without,
        its one transaction.

        Args:
            fn: Called as ``fn(db)``, as by :meth:`transaction`; it only reads.

        Returns:
            The result of ``fn``.

        Raises:
            Exception: Whatever ``fn`` raised.
            StoreUnavailable: The database could not be read.
            TransactionMisuse: ``fn`` tried to write rows or tables, called a store, or is not a plain function.
        """


class AsyncOneCommitStore(AsyncTransactionalStore, Protocol):
    """A store that can write an operation's record first in the commit of its transaction, without a claim (5.1).

    The interceptor does not claim transactional operations on such a store, unless they are to be recovered.
    """

    def complete_unclaimed(self, claim: Claim, outcome: Outcome, ttl: timedelta) -> Awaitable[datetime | Record]:
        """Stores a completed record of an operation that was never claimed, in one write.

        It serves transactional operations whose handlers reply without a transaction: their claims were not written
        before.

        Args:
            claim: The claim from which the record is made. Its lease, its owner and its request are not kept.
            outcome: The handler's outcome.
            ttl: The time from now until the record expires.

        Returns:
            The record's ``completed_at``, the time at which the outcome was stored; or the record that prevented it,
            which is not changed. A record that is already completed under the claim's own fence with the same outcome
            does not prevent it: its ``completed_at`` is returned, so that a call whose answer was lost can be tried
            again.
        """


class TransactionalStore(Store, Protocol):
    """A store for threads whose database can also hold the handler's own rows (5.1)."""

    @property
    def identity(self) -> str | None:
        """See :attr:`AsyncTransactionalStore.identity`."""

    def transaction(self, fn: Callable[[Database], T], *, step: Callable[[T], Step] | None = None) -> T:
        """See :meth:`AsyncTransactionalStore.transaction`; it is called in the handler's own thread."""

    def read(self, fn: Callable[[Database], T]) -> T:
        """See :meth:`AsyncTransactionalStore.read`."""


class OneCommitStore(TransactionalStore, Protocol):
    """A store for threads that can write an operation's record first in the commit of its transaction (5.1)."""

    def complete_unclaimed(self, claim: Claim, outcome: Outcome, ttl: timedelta) -> datetime | Record:
        """See :meth:`AsyncOneCommitStore.complete_unclaimed`."""
