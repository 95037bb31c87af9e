"""The contract of a store, in prose and as types (6.1).

A store keeps at most one record per operation name and changes it by compare-and-set on the record's fence. It holds
no rule of the protocol: who may take over what, and when, is decided by its caller; a store only promises that each
call below happens at one instant, as durably as it can, or not at all.

* **Time** is the store's own: leases and expiry are measured by one clock that all processes on the store share, so
  that a host whose clock is wrong can neither steal a live lease nor keep a dead one (4.9).
* **Expiry** is exact: from the instant ``expires_at`` on, a completed record is absent to every call below, swept or
  not (6.3). Running and held records do not expire.
* **Fences**: a fenced call under another fence than the record's changes nothing and answers ``False`` (4.2).
* **Errors**: a store that can't do a call raises :class:`~grpc_idempotency.errors.StoreUnavailable`; its ``landed``
  says whether the write may have taken effect all the same. No driver's exception leaves a store.
* **Loops and threads**: calls come from any thread, and those of an asyncio store from any event loop, several at the
  same time. None waits for another caller's loop or thread to come round: leases are renewed in a thread and a loop of
  their own, so that a handler which blocks the server's loop does not lose its lease. Renewals that come together
  should take little longer than one of them, and should not wait behind what can be long.
* **Cancellation**: a caller that is cancelled while it waits leaves the store intact; the call may still take effect.

``grpc_idempotency.testing`` holds the suite that every store passes.
"""

from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from grpc_idempotency.records import Claim, Outcome, Record, State, Step, Swept

T = TypeVar("T")


class AsyncStore(Protocol):
    """A store as ``grpc_idempotency.aio`` uses it."""

    async def open(self) -> None:
        """Makes the store ready: connects, creates or migrates its tables. Again on an open store: nothing.

        Every other call opens the store first where that has not been done.
        """

    async def close(self) -> None:
        """Finishes what was begun and lets go of everything. Again on a closed store: nothing."""

    async def claim(self, claim: Claim, *, over: bytes | None = None) -> Record | None:
        """Claims the operation if it is absent (or expired): a record *running* under ``claim.fence``.

        With ``over`` also if the record is running under the fence ``over`` and its lease has run out, or waiting under
        it and due: a take-over, which counts one attempt more and keeps ``created_at``, ``tries``, the steps, and the
        request of the first claim.

        Answers ``None`` when the claim was won, else the record that stands in its way.
        """

    async def renew(self, name: bytes, fence: bytes, lease: timedelta) -> bool:
        """Makes the lease of a running record end ``lease`` from now, also when it has run out already."""

    async def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> bool:
        """Stores the outcome of a running or held record; it expires ``ttl`` from now. Its request is kept no longer.

        A record that is completed under this very fence with this very outcome already answers ``True`` and is left
        alone, so that a completion can be tried again when its answer was lost.
        """

    async def release(self, name: bytes, fence: bytes) -> bool:
        """Deletes a running or held record and its steps: the operation is absent again, and its fence is spent."""

    async def wait(self, name: bytes, fence: bytes, delay: timedelta, tries: int) -> bool:
        """Makes a running record *waiting*: it has no lease, keeps its steps, and is due ``delay`` from now."""

    async def record_step(self, name: bytes, fence: bytes, step: Step) -> bool:
        """Keeps a finished step of a running or held record. A step of this name is there already: ``False``."""

    async def steps(self, name: bytes) -> Sequence[Step]:
        """The finished steps of an operation, in the order in which they were recorded; kept as long as its record."""

    async def pending(self, methods: Collection[str], limit: int = 100) -> Sequence[Record]:
        """Lapsed records of these methods that can be dealt with without their clients (5.4), up to ``limit``.

        First those that are opaque and running, which nobody may run again, then those that were claimed with a
        request; the oldest claims first among each.
        """

    async def hold(self, name: bytes, fence: bytes, reason: str, *, lapsed_only: bool = False) -> bool:
        """Makes a running record *held*: it keeps its fence, has no lease and does not expire.

        With ``lapsed_only`` nothing changes (``False``) unless its lease has run out: for those who are not its owner.
        """

    async def resolve(self, name: bytes, fence: bytes, outcome: Outcome | None, ttl: timedelta) -> bool:
        """An operator's word on a held record: completed with ``outcome``, or with ``None`` as never happened."""

    async def get(self, name: bytes) -> Record | None:
        """The record, or ``None`` where it is absent."""

    async def list(
        self, *, state: State | None = None, method: str | None = None, after: Record | None = None, limit: int = 100
    ) -> Sequence[Record]:
        """Up to ``limit`` records, oldest claim first, expired ones left out; ``after`` continues behind a record."""

    async def sweep(self, limit: int = 500) -> Swept:
        """Deletes up to ``limit`` expired records and gives space back where the store can. One small batch."""


class Store(Protocol):
    """A store as ``grpc_idempotency`` uses it in threads: the same calls, which block."""

    def open(self) -> None:
        """See :class:`AsyncStore`."""

    def close(self) -> None:
        """See :class:`AsyncStore`."""

    def claim(self, claim: Claim, *, over: bytes | None = None) -> Record | None:
        """See :class:`AsyncStore`."""

    def renew(self, name: bytes, fence: bytes, lease: timedelta) -> bool:
        """See :class:`AsyncStore`."""

    def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> bool:
        """See :class:`AsyncStore`."""

    def release(self, name: bytes, fence: bytes) -> bool:
        """See :class:`AsyncStore`."""

    def wait(self, name: bytes, fence: bytes, delay: timedelta, tries: int) -> bool:
        """See :class:`AsyncStore`."""

    def record_step(self, name: bytes, fence: bytes, step: Step) -> bool:
        """See :class:`AsyncStore`."""

    def steps(self, name: bytes) -> Sequence[Step]:
        """See :class:`AsyncStore`."""

    def pending(self, methods: Collection[str], limit: int = 100) -> Sequence[Record]:
        """See :class:`AsyncStore`."""

    def hold(self, name: bytes, fence: bytes, reason: str, *, lapsed_only: bool = False) -> bool:
        """See :class:`AsyncStore`."""

    def resolve(self, name: bytes, fence: bytes, outcome: Outcome | None, ttl: timedelta) -> bool:
        """See :class:`AsyncStore`."""

    def get(self, name: bytes) -> Record | None:
        """See :class:`AsyncStore`."""

    def list(
        self, *, state: State | None = None, method: str | None = None, after: Record | None = None, limit: int = 100
    ) -> Sequence[Record]:
        """See :class:`AsyncStore`."""

    def sweep(self, limit: int = 500) -> Swept:
        """See :class:`AsyncStore`."""


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


class AsyncTransactionalStore(AsyncStore, Protocol):
    """A store whose database can hold the handler's own rows too (5.1)."""

    def transaction(
        self, fn: Callable[[Database], T], *, step: Callable[[T], Step] | None = None
    ) -> Coroutine[Any, Any, T]:
        """Runs the plain function ``fn(db)`` in one transaction and answers what it returned, once that is durable.

        In a keyed call of this store, called by the handler itself, what ``fn`` returns is the call's reply: its rows
        and the operation's outcome commit together, or neither does. ``fn`` runs on the database's thread, does no I/O
        but ``db``, is short, and may raise to roll back. It is run again where the database has rolled it back for the
        sake of another, in a conflict or since they shared a commit; so it changes nothing outside of ``db``.

        This is a plain function: the operation is that of the caller, wherever the answer is awaited then. In a task or
        thread that a handler has started it is just a transaction.

        A transaction that the database has rolled back under ``fn``, by a constraint, a trigger or a full disk, has
        failed even if ``fn`` catches the error: further statements raise, and what ``fn`` returns is discarded.

        With ``step``, for :meth:`~grpc_idempotency.operation.Operation.step`: instead of the outcome, the step that
        ``step`` makes of what ``fn`` returned is kept, in the same transaction.

        Raises what ``fn`` raised; :class:`~grpc_idempotency.errors.FenceRefused` when the operation has another owner
        by now; :class:`~grpc_idempotency.errors.StoreUnavailable` when it could not be committed;
        :class:`~grpc_idempotency.errors.TransactionMisuse` for a second transaction in a call whose first committed,
        for a function that went on after the error by which its transaction was rolled back, for one that returns the
        method's response in a task or thread of the running handler, and for any call of a store within ``fn``, also by
        way of a thread or a loop that ``fn`` waits for.
        """

    async def read(self, fn: Callable[[Database], T]) -> T:
        """Answers what the plain function ``fn(db)`` reads: all of it as it was at one instant.

        In a keyed call it is not the reply, so that a handler may read as often as it likes before, or without, its one
        transaction. A statement that would write, be it rows or tables, raises
        :class:`~grpc_idempotency.errors.TransactionMisuse`. For the rest as :meth:`transaction`.
        """


class TransactionalStore(Store, Protocol):
    """A store for threads whose database can hold the handler's own rows too (5.1)."""

    def transaction(self, fn: Callable[[Database], T], *, step: Callable[[T], Step] | None = None) -> T:
        """See :class:`AsyncTransactionalStore`."""

    def read(self, fn: Callable[[Database], T]) -> T:
        """See :class:`AsyncTransactionalStore`."""
