"""The contract of a store, in prose and as types (6.1).

A store keeps at most one record per operation name and changes it by compare-and-set on the record's fence. It holds
no rule of the protocol: who may take over what, and when, is decided by its caller; a store only promises that each
call below happens at one instant, as durably as it can, or not at all.

* **Time** is the store's own: leases and expiry are measured by one clock that all processes on the store share, so
  that a host whose clock is wrong can neither steal a live lease nor keep a dead one (4.9).
* **Expiry** is exact: from the instant ``expires_at`` on, a completed record is absent to every call below, swept or
  not (6.3). Other records do not expire.
* **Fences**: a fenced call under another fence than the record's changes nothing and answers ``False`` (4.2).
* **Errors**: a store that can't do a call raises :class:`~grpc_idempotency.errors.StoreUnavailable`; its ``landed``
  says whether the write may have taken effect all the same. No driver's exception leaves a store.
* **Loops and threads**: calls come from any thread, and those of an asyncio store from any event loop, several at the
  same time. None waits for another caller's loop or thread to come round: leases are renewed in a thread and a loop of
  their own, so that a handler which blocks the server's loop does not lose its lease. Renewals that come together
  should take little longer than one of them, and should not wait behind what can be long.
* **Cancellation**: a caller that is cancelled while it waits leaves the store intact; the call may still take effect.

A store whose database can hold a handler's rows takes part in the operation that the handler runs in. It asks
:func:`running_operation` for it when ``transaction`` is called, and uses it as :class:`RunningOperation` says.

``grpc_idempotency.testing`` holds the suites that every store passes.
"""

import contextvars
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

from grpc_idempotency._operation import ambient, running
from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.records import Claim, Outcome, Record, State, Step, Swept

T = TypeVar("T")


class AsyncStore(Protocol):
    """A store as ``grpc_idempotency.aio`` uses it.

    A call may be an ``async def``, or a plain ``def`` that returns an awaitable, such as a future: it may then begin
    when it is called, in the event loop in which it is awaited. The caller awaits the result, once. ``open`` and
    ``close`` are ``async def``.

    Raises:
        StoreUnavailable: From every call that the store can't do; its ``landed`` says what is known of the write.
    """

    async def open(self) -> None:
        """Makes the store ready: connects, creates or migrates its tables. Does nothing on an open store.

        Every other call opens the store first where that has not been done.
        """

    async def close(self) -> None:
        """Finishes what was begun and lets go of everything. Does nothing on a closed store."""

    def claim(self, claim: Claim, *, over: bytes | None = None) -> Awaitable[Record | None]:
        """Claims an operation that is absent or expired: makes a record *running* under ``claim.fence``.

        Args:
            claim: What is to be written.
            over: A fence. The operation is then claimed also if its record is running or undoing under this fence and
                the lease has run out, or is waiting under it and due: a take-over. It counts one attempt more, and
                keeps ``created_at``, both counts of tries, the failure, the steps, and the request of the first claim.
                With a failure the record is *undoing* after it.

        Returns:
            ``None`` if the claim was won, else the record that stands in its way.
        """

    def renew(self, name: bytes, fence: bytes, lease: timedelta) -> Awaitable[bool]:
        """Makes the lease of a running or undoing record end ``lease`` from now, also if it has run out already.

        Args:
            name: The operation's name.
            fence: The fence that its record has to have.
            lease: How long the lease is good for, by the store's clock.

        Returns:
            ``True`` if the record was changed.
        """

    def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> Awaitable[datetime | None]:
        """Stores the outcome of a running, undoing or held record, and drops its failure, its owner and its request.

        Args:
            name: The operation's name.
            fence: The fence that its record has to have.
            outcome: What the handler answered.
            ttl: How long from now until the record expires.

        Returns:
            When the outcome was stored, the record's ``completed_at``; ``None`` if it was not. A record that is
            completed under this very fence with this very outcome is left alone, and its ``completed_at`` returned, so
            that a completion whose answer was lost can be tried again.
        """

    def release(self, name: bytes, fence: bytes) -> Awaitable[bool]:
        """Deletes a running, undoing or held record and its steps: the operation is absent, and its fence is spent.

        Args:
            name: The operation's name.
            fence: The fence that its record has to have.

        Returns:
            ``True`` if the record was deleted.
        """

    def wait(self, name: bytes, fence: bytes, delay: timedelta, tries: int, undo_tries: int) -> Awaitable[bool]:
        """Makes a running or undoing record *waiting*: it has no lease and keeps its steps.

        Args:
            name: The operation's name.
            fence: The fence that its record has to have.
            delay: How long from now until the record is due.
            tries: How many runs of the handler have failed in a way that may pass, this one included.
            undo_tries: How many runs have failed to undo the operation, this one included.

        Returns:
            ``True`` if the record was changed.
        """

    def undo(self, name: bytes, fence: bytes, failure: Outcome) -> Awaitable[bool]:
        """Makes a running record *undoing*: it has failed for good, keeps its lease, its steps and this failure.

        The failure stays with the record while it waits and when it is held, until it is completed. A take-over of a
        record with a failure makes it undoing, not running.

        Args:
            name: The operation's name.
            fence: The fence that its record has to have.
            failure: What the operation is to be completed with once its steps are undone. It has no message.

        Returns:
            ``True`` if the record was changed. Also ``True`` if it is undoing under this very fence with this very
            failure: it is left alone then, so that a call whose answer was lost can be tried again.
        """

    def record_step(self, name: bytes, fence: bytes, step: Step) -> Awaitable[bool]:
        """Keeps a finished step of a running, undoing or held record, and the instant at which this is done.

        Args:
            name: The operation's name.
            fence: The fence that its record has to have.
            step: The step, whose name no other step of the operation has.

        Returns:
            ``True`` if the step was kept; ``False`` also if a step of this name is there already.
        """

    def steps(self, name: bytes) -> Awaitable[Sequence[Step]]:
        """Reads the finished steps of an operation, which are kept as long as its record.

        Args:
            name: The operation's name.

        Returns:
            The steps in the order in which they were recorded.
        """

    def pending(self, methods: Collection[str], limit: int = 100) -> Awaitable[Sequence[Record]]:
        """Reads lapsed records that can be dealt with without their clients (5.4).

        Args:
            methods: The full names of the methods whose records are wanted.
            limit: The most records to answer.

        Returns:
            Records with their requests. First those that are opaque and running or undoing, which nobody may run again,
            then those that were claimed with a request; the oldest claims first among each.
        """

    def hold(self, name: bytes, fence: bytes, reason: str, *, lapsed_only: bool = False) -> Awaitable[bool]:
        """Makes a running or undoing record *held*: it keeps its fence, has no lease and does not expire.

        Args:
            name: The operation's name.
            fence: The fence that its record has to have.
            reason: Why it is held, in words for an operator.
            lapsed_only: Changes nothing unless the lease has run out. For callers that do not own the record.

        Returns:
            ``True`` if the record was changed.
        """

    def resolve(self, name: bytes, fence: bytes, outcome: Outcome | None, ttl: timedelta) -> Awaitable[bool]:
        """Settles a held record as an operator says (6.4).

        Args:
            name: The operation's name.
            fence: The fence that its record has to have.
            outcome: The outcome to complete the record with; ``None`` makes the operation absent, as one that never
                happened.
            ttl: How long from now until the completed record expires.

        Returns:
            ``True`` if the record was changed.
        """

    def get(self, name: bytes) -> Awaitable[Record | None]:
        """Reads a record.

        Args:
            name: The operation's name.

        Returns:
            The record, or ``None`` if the operation is absent.
        """

    def list(
        self, *, state: State | None = None, method: str | None = None, after: Record | None = None, limit: int = 100
    ) -> Awaitable[Sequence[Record]]:
        """Reads records in the order of their first claims, the oldest first; expired ones are left out.

        Args:
            state: Only records in this state.
            method: Only records of the method with this full name.
            after: The record behind which to go on: the last one of the page before.
            limit: The most records to answer.

        Returns:
            The records. Fewer than ``limit`` means that there are no more.
        """

    def sweep(self, limit: int = 500) -> Awaitable[Swept]:
        """Deletes one small batch of expired records, and gives space back where the store can.

        Args:
            limit: The most records to delete.

        Returns:
            What was done, and whether expired records are left.
        """


class Store(Protocol):
    """A store as ``grpc_idempotency`` uses it in threads: the same calls, which block."""

    def open(self) -> None:
        """See :meth:`AsyncStore.open`."""

    def close(self) -> None:
        """See :meth:`AsyncStore.close`."""

    def claim(self, claim: Claim, *, over: bytes | None = None) -> Record | None:
        """See :meth:`AsyncStore.claim`."""

    def renew(self, name: bytes, fence: bytes, lease: timedelta) -> bool:
        """See :meth:`AsyncStore.renew`."""

    def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> datetime | None:
        """See :meth:`AsyncStore.complete`."""

    def release(self, name: bytes, fence: bytes) -> bool:
        """See :meth:`AsyncStore.release`."""

    def wait(self, name: bytes, fence: bytes, delay: timedelta, tries: int, undo_tries: int) -> bool:
        """See :meth:`AsyncStore.wait`."""

    def undo(self, name: bytes, fence: bytes, failure: Outcome) -> bool:
        """See :meth:`AsyncStore.undo`."""

    def record_step(self, name: bytes, fence: bytes, step: Step) -> bool:
        """See :meth:`AsyncStore.record_step`."""

    def steps(self, name: bytes) -> Sequence[Step]:
        """See :meth:`AsyncStore.steps`."""

    def pending(self, methods: Collection[str], limit: int = 100) -> Sequence[Record]:
        """See :meth:`AsyncStore.pending`."""

    def hold(self, name: bytes, fence: bytes, reason: str, *, lapsed_only: bool = False) -> bool:
        """See :meth:`AsyncStore.hold`."""

    def resolve(self, name: bytes, fence: bytes, outcome: Outcome | None, ttl: timedelta) -> bool:
        """See :meth:`AsyncStore.resolve`."""

    def get(self, name: bytes) -> Record | None:
        """See :meth:`AsyncStore.get`."""

    def list(
        self, *, state: State | None = None, method: str | None = None, after: Record | None = None, limit: int = 100
    ) -> Sequence[Record]:
        """See :meth:`AsyncStore.list`."""

    def sweep(self, limit: int = 500) -> Swept:
        """See :meth:`AsyncStore.sweep`."""


class Rows(Protocol):
    """What a statement answered. All rows are fetched already."""

    @property
    def rowcount(self) -> int:
        """Rows changed by an INSERT, UPDATE or DELETE; -1 for others."""

    def fetchone(self) -> tuple[Any, ...] | None:
        """The next row, or ``None`` behind the last."""

    def fetchall(self) -> list[tuple[Any, ...]]:
        """The rows that are left."""


class Database(Protocol):
    """The view of the database that a transaction's function gets: statements, and no say in the transaction itself.

    BEGIN, COMMIT, ROLLBACK, SAVEPOINT, ATTACH, PRAGMA and what would change the store's own tables raise
    :class:`~grpc_idempotency.errors.TransactionMisuse`; several statements in one raise the driver's error.

    Parameters are written in the engine's own style; nothing is translated. The errors of PEP 249 are attributes, as
    it allows, so that ``except db.IntegrityError`` needs no driver's name.
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
        """Runs one statement."""

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]]) -> Rows:
        """Runs one statement once for each row of parameters; ``rowcount`` is their sum."""

    def savepoint(self) -> AbstractContextManager[None]:
        """Keeps what is done in its block, or none of that if an error leaves the block; what was done before stays.

        So an error caught outside of the block does no harm, whatever the engine. Blocks may be nested.
        """


class RunningOperation(Protocol):
    """A keyed call that runs, as its store's ``transaction`` sees it: under a fence, without an outcome yet.

    The store asks for it with :func:`running_operation` when ``transaction`` is called. It calls
    :meth:`begin_transaction` before it queues the transaction, and :meth:`end_transaction` once that is answered. In
    between it runs the function, asks :meth:`seal` for the outcome of what the function returned, and commits rows and
    outcome together: it completes the record or, if there is a :attr:`claim`, inserts a completed one.
    """

    committed: Outcome | None
    """The outcome that a transaction of this run has committed. Set by the store before it ends the transaction."""
    completed_at: datetime | None
    """When that outcome was stored, the record's ``completed_at``. Set by the store with ``committed``. Where the store
    can't tell it stays ``None``, and the first replay reads the record."""
    uncommitted: StoreUnavailable | None
    """The error with which a transaction of this run could not be committed. Set by the store before it raises it."""

    @property
    def name(self) -> bytes:
        """The operation's name: 16 bytes."""

    @property
    def fence(self) -> bytes:
        """The fence of this run: 16 bytes. Only a record that is running or held under it may be completed."""

    @property
    def claim(self) -> Claim | None:
        """The claim of an operation that has no record yet; ``None`` if it was claimed with ``claim`` (5.1).

        With a claim, the transaction first looks for a record of this name that is not expired. If there is one, the
        function does not run, and :class:`~grpc_idempotency.errors.FenceRefused` is raised. Otherwise the function's
        rows are committed together with a new record: completed, with the claim's fence, fingerprint, effects, method
        and ``streams``. An expired record is replaced. No record may appear between the look and the commit.
        """

    @property
    def ttl(self) -> timedelta:
        """How long the outcome is kept, from its commit."""

    @property
    def store(self) -> object:
        """The store that holds the operation's record. In any other database a transaction is just a transaction."""

    @property
    def over(self) -> bool:
        """``True`` once the handler has ended."""

    def seal(self, reply: object) -> Outcome:
        """Makes the outcome that the call has if ``reply`` is its reply, with the status and trailers set so far.

        Called in the transaction, behind its function.

        Args:
            reply: What the transaction's function returned.

        Returns:
            The outcome. If its status is not OK, the transaction has to be rolled back, and is answered all the same.

        Raises:
            Exception: The response's serializer fails, so the transaction has to be rolled back and fails with this.
            TransactionMisuse: One of the operation's steps is still running.
            BaseException: This run only makes known how its steps are undone, and has no reply.
        """

    def answers(self, value: object) -> bool:
        """Tells whether a value could be the call's reply, by its type.

        Args:
            value: What the function of a transaction returned that is not the handler's own; see
                :func:`inherited_operation`.

        Returns:
            ``True`` if the method's serializer takes it.
        """

    def begin_transaction(self, transaction: object) -> None:
        """Makes the operation's end wait for a transaction of the handler's own, not a step's.

        The handler may end while its transaction still runs: it was cancelled, or has left it to a task. The outcome
        may be committed all the same. A store that blocks its caller until it has answered need not call this.

        Args:
            transaction: Anything that tells this transaction from others.

        Raises:
            TransactionMisuse: The handler has ended already.
        """

    def end_transaction(self, transaction: object) -> None:
        """Tells the operation that a transaction is answered, in whichever thread. Again for the same one: nothing.

        Args:
            transaction: What :meth:`begin_transaction` was called with.
        """


def running_operation() -> RunningOperation | None:
    """Finds the operation that a transaction belongs to.

    Returns:
        The operation of the caller, be it the handler itself or one of its steps; ``None`` in an un-keyed call, outside
        of handlers, and in a task or thread that a handler has started.
    """
    return running.current()


def inherited_operation() -> RunningOperation | None:
    """Finds the operation whose handler has started the calling task or thread, or is it.

    A transaction that such a task or thread makes commits no reply. What its function returns must not be a value that
    the operation :meth:`~RunningOperation.answers`: somebody has put the handler itself into a task, and would lose it.

    Returns:
        The operation, while its handler runs; else ``None``.
    """
    return running.behind()


def bind_operation(context: contextvars.Context, operation: RunningOperation) -> None:
    """Gives an operation to the function of a transaction, in whatever thread the database runs it.

    Args:
        context: The context that the function will be run in: a copy of its caller's.
        operation: The caller's operation.
    """
    ambient.lend(context, operation)


class AsyncTransactionalStore(AsyncStore, Protocol):
    """A store whose database can hold the handler's own rows too (5.1)."""

    def complete_unclaimed(self, claim: Claim, outcome: Outcome, ttl: timedelta) -> Awaitable[datetime | Record]:
        """Stores a completed record of an operation that was never claimed, in one write.

        For a transactional operation whose handler answers without a transaction: its claim was not written before.

        Args:
            claim: What the record says of the operation. Its lease, its owner and its request are not kept.
            outcome: What the handler answered.
            ttl: How long from now until the record expires.

        Returns:
            When the outcome was stored, the record's ``completed_at``; or the record that stands in its way, which is
            left alone. A record that is completed under the claim's own fence with this very outcome does not stand in
            its way: its ``completed_at`` is returned, so that a call whose answer was lost can be tried again.
        """

    def transaction(
        self, fn: Callable[[Database], T], *, step: Callable[[T], Step] | None = None
    ) -> Coroutine[Any, Any, T]:
        """Runs a plain function in one transaction, and answers what it returned once that is durable.

        In a keyed call of this store, called by the handler itself, what ``fn`` returns is the call's reply: its rows
        and the operation's outcome commit together, or neither does. This is a plain function: the operation is that of
        the caller, wherever the answer is awaited then. In a task or thread that a handler has started it is just a
        transaction.

        A transaction that the database has rolled back under ``fn``, by a constraint, a trigger or a full disk, has
        failed even if ``fn`` catches the error: further statements raise, and what ``fn`` returns is discarded.

        Args:
            fn: Called as ``fn(db)`` on the database's thread. It does no I/O but ``db``, is short, and may raise to
                roll back. It is run again where the database has rolled it back for the sake of another, in a conflict
                or since they shared a commit; so it changes nothing outside of ``db``.
            step: For :meth:`grpc_idempotency.aio.Operation.step`. Makes of what ``fn`` returned the step that is kept
                in the same transaction, instead of the outcome.

        Returns:
            What ``fn`` returned.

        Raises:
            Exception: Whatever ``fn`` raised.
            FenceRefused: The operation has another owner by now, has a record though it was not claimed, or has kept a
                step of this name. Nothing is kept.
            StoreUnavailable: The transaction could not be committed.
            TransactionMisuse: This is a second transaction in a call whose first committed. Or ``fn`` went on after the
                error by which its transaction was rolled back, returned the method's response in a task or thread of
                the running handler, called a store (also by way of a thread or a loop that it waits for), or is not a
                plain function. Or a step is to be kept outside of a keyed call of this store.
        """

    async def read(self, fn: Callable[[Database], T]) -> T:
        """Answers what a plain function reads: all of it as it was at one instant.

        In a keyed call it is not the reply, so that a handler may read as often as it likes before, or without, its one
        transaction.

        Args:
            fn: Called as ``fn(db)``, as by :meth:`transaction`; it only reads.

        Returns:
            What ``fn`` returned.

        Raises:
            Exception: Whatever ``fn`` raised.
            StoreUnavailable: The database could not be read.
            TransactionMisuse: ``fn`` would write rows or tables, called a store, or is not a plain function.
        """


class TransactionalStore(Store, Protocol):
    """A store for threads whose database can hold the handler's own rows too (5.1)."""

    def complete_unclaimed(self, claim: Claim, outcome: Outcome, ttl: timedelta) -> datetime | Record:
        """See :meth:`AsyncTransactionalStore.complete_unclaimed`."""

    def transaction(self, fn: Callable[[Database], T], *, step: Callable[[T], Step] | None = None) -> T:
        """See :meth:`AsyncTransactionalStore.transaction`; in the handler's own thread."""

    def read(self, fn: Callable[[Database], T]) -> T:
        """See :meth:`AsyncTransactionalStore.read`."""
