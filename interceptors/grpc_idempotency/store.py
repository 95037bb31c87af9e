"""The contract of a store, in prose and as types (6.1).

A store keeps at most one record per operation name and changes it by compare-and-set on the record's fence. It contains
no rule of the protocol: its caller decides which claim may take over a record, and when. A store only promises that
each call below is atomic: it takes effect at one instant, as durably as the store can make it, or not at all.

* **Time** is the store's own: one clock, which all processes on the store share, measures leases and expiry. So a host
  whose clock is wrong can neither take over a live lease nor keep a lapsed one alive (4.9).
* **Expiry** is exact: from the instant ``expires_at`` on, a completed record is absent to every call below, whether it
  is swept or not (6.3). Other records do not expire.
* **Fences**: a fenced call under another fence than the record's changes nothing, and returns ``False`` or ``None``
  (4.2).
* **Errors**: a store that can't perform a call raises :class:`~grpc_idempotency.errors.StoreUnavailable`. Its
  ``landed`` says whether the write may have taken effect all the same. A store never raises an exception of its driver.
* **Lost answers**: once a request was sent, alone or in a group, ``landed`` is ``None`` until the record was read under
  its fence and shows that the write did not take effect. If a store sends a request again, and the second try certainly
  did nothing, the first may still have taken effect.
* **Loops and threads**: calls come from any thread, and those of an asyncio store from any event loop, several at the
  same time. No call waits for another caller's loop or thread: leases are renewed in a thread and a loop of their own,
  so that a handler which blocks the server's loop does not lose its lease. Concurrent renewals should take little
  longer than one renewal, and should not wait behind calls that can take long.
* **Cancellation**: a caller that is cancelled while it waits leaves the store intact; the call may still take effect.

A store whose database can also hold a handler's rows has two more calls, or three: see
:mod:`grpc_idempotency.transactions`. A store that operators can look into and change has seven more (6.4): see
:mod:`grpc_idempotency.operator_store`.

``grpc_idempotency.testing`` contains the test suites that every store passes.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from grpc_idempotency.records import Claim, Outcome, Record, Renewal, Standing, Step, Swept


class AsyncStore(Protocol):
    """A store as ``grpc_idempotency.aio`` uses it.

    A call is an ``async def``, or a plain ``def`` that returns an awaitable, such as a future. A plain ``def`` may
    start its work when it is called, in the event loop in which the result is awaited. The caller awaits the result
    exactly once. ``open`` and ``close`` are ``async def``.

    Raises:
        StoreUnavailable: The store can't perform the call; ``landed`` says what is known of the write. Every call may
            raise it.
    """

    async def open(self) -> None:
        """Makes the store ready: connects, and creates or migrates its tables. Does nothing on an open store.

        Every other call opens the store first if it is not open.
        """

    async def close(self) -> None:
        """Finishes the calls that have begun, and releases all resources. Does nothing on a closed store."""

    def claim(self, claim: Claim, *, over: bytes | None = None) -> Awaitable[Record | None]:
        """Claims an operation that is absent or expired: writes a *running* record under ``claim.fence``.

        Args:
            claim: The claim to write.
            over: A fence. The operation is then also claimed if its record is running or undoing under this fence and
                the lease has run out, or is waiting under it and due: a take-over. A take-over adds one attempt, and
                keeps ``created_at``, both counts of failed runs, the failure, the steps, and the request of the first
                claim. A record with a failure is *undoing* afterwards.

        Returns:
            ``None`` if the claim succeeded, else the record that prevented it. If the record is running or undoing
            under ``claim.fence``, the claim has succeeded before, and its answer was lost: nothing changes, not even
            the lease, and ``None`` is returned.
        """

    def renew(self, name: bytes, fence: bytes, lease: timedelta) -> Awaitable[Renewal]:
        """Sets the lease of a running or undoing record to end ``lease`` from now, even if it has run out already.

        It does not wait for a lock that a handler's transaction may hold for long.

        Args:
            name: The operation's name.
            fence: The fence that the record must have.
            lease: How long the lease is good for, by the store's clock.

        Returns:
            Whether the lease was renewed, is lost, or can't be renewed at the moment.
        """

    def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> Awaitable[datetime | None]:
        """Stores the outcome of a running, undoing or held record, and drops its failure, its owner and its request.

        Args:
            name: The operation's name.
            fence: The fence that the record must have.
            outcome: The handler's outcome.
            ttl: The time from now until the record expires.

        Returns:
            The record's ``completed_at``, the time at which the outcome was stored; ``None`` if it was not stored. If
            the record is already completed under the same fence with the same outcome, nothing changes and its
            ``completed_at`` is returned, so that a completion whose answer was lost can be tried again.
        """

    def release(self, name: bytes, fence: bytes, *, lapsed_only: bool = False) -> Awaitable[bool]:
        """Deletes a running, undoing or held record and its steps: the operation is absent, and its fence is invalid.

        Args:
            name: The operation's name.
            fence: The fence that the record must have.
            lapsed_only: Changes nothing unless the record is lapsed, also as a waiting one, and has no finished steps.
                For callers that do not own the record. It does not wait for a lock that a handler's transaction holds.

        Returns:
            ``True`` if the record was deleted.
        """

    def wait(self, name: bytes, fence: bytes, delay: timedelta, failed_runs: int, failed_undos: int) -> Awaitable[bool]:
        """Makes a running or undoing record *waiting*: it has no lease and keeps its steps.

        Args:
            name: The operation's name.
            fence: The fence that the record must have.
            delay: The time from now until the record is due.
            failed_runs: The number of runs of the handler that failed in a way that may pass, including this one.
            failed_undos: The number of runs that failed to undo the operation, including this one.

        Returns:
            ``True`` if the record was changed.
        """

    def undo(self, name: bytes, fence: bytes, failure: Outcome) -> Awaitable[bool]:
        """Makes a running record *undoing*: it keeps its lease and its steps, and stores this failure.

        The operation has failed for good. The failure stays with the record while it waits and when it is held, until
        it is completed. A take-over of a record with a failure makes it undoing, not running.

        Args:
            name: The operation's name.
            fence: The fence that the record must have.
            failure: The outcome with which the operation will be completed once its steps are undone. It has no
                message.

        Returns:
            ``True`` if the record was changed. Also ``True`` if it is already undoing under the same fence with the
            same failure: nothing changes then, so that a call whose answer was lost can be tried again.
        """

    def record_step(self, name: bytes, fence: bytes, step: Step) -> Awaitable[bool]:
        """Stores a finished step of a running, undoing or held record, and the time at which it is stored.

        Args:
            name: The operation's name.
            fence: The fence that the record must have.
            step: The step. Its name is unique within the operation.

        Returns:
            ``True`` if the step was stored; ``False`` also if the operation already has a step of this name.
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
            limit: The maximum number of records to return.

        Returns:
            Records with their requests. First the records that are opaque and running or undoing, which must not be run
            again, then those that were claimed with a request, then those that are transactional, were claimed without
            a request, and have no finished steps; each group with the oldest claims first.
        """

    def hold(self, name: bytes, fence: bytes, reason: str, *, lapsed_only: bool = False) -> Awaitable[bool]:
        """Makes a running or undoing record *held*: it keeps its fence, has no lease and does not expire.

        Args:
            name: The operation's name.
            fence: The fence that the record must have.
            reason: Why the record is held, in words for an operator.
            lapsed_only: Changes nothing unless the lease has run out. For callers that do not own the record.

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

    def standing(self, names: Collection[bytes]) -> Awaitable[Mapping[bytes, Standing]]:
        """Reads the standings of many operations at once, without their payloads (4.3).

        A process that has calls waiting for runs in other processes makes this call about every 50 ms, for all of them
        together. It is to cost the store little more than one read.

        Args:
            names: The names of the operations.

        Returns:
            The standings by name. Absent operations are missing.
        """

    def sweep(self, limit: int = 500) -> Awaitable[Swept]:
        """Deletes one small batch of expired records, and returns disk space to the file system if the store can.

        A store that keeps notes of operators deletes the expired ones among them, too. They do not count.

        Args:
            limit: The maximum number of records to delete.

        Returns:
            What was deleted and freed, and whether expired records are left.
        """


class NotifyingStore(Protocol):
    """A call that a store of either kind may have: its database notifies it of changes, so that waits end sooner (4.3).

    Without it, waiting calls learn of a change by their process's next poll. With it, that poll is made at once.
    """

    def subscribe(self, changed: Callable[[], object]) -> Callable[[], object]:
        """Registers a function for the time in which calls of this process wait for runs in other processes.

        Args:
            changed: Called in any thread when an operation that ``standing`` was asked for since may have changed. It
                does not block. A call too many costs one poll, and a missed one costs 50 ms.

        Returns:
            A function that ends the registration, and does not block either.
        """


class ObservableStore(Protocol):
    """A call that a store of either kind may have: it reports the batches that its writer sends.

    For stores that gather what waits and write it together.
    """

    def observe(self, committed: Callable[[int, float], object]) -> Callable[[], object]:
        """Registers a function that is called after each batch, whether the store is open or not.

        Args:
            committed: Called in the writer's thread with the number of requests in the batch, and the seconds that it
                took. It does not block, and calls no store.

        Returns:
            A function that ends the registration.
        """


class Store(Protocol):
    """A store as ``grpc_idempotency`` uses it in threads: it has the same calls, and they block."""

    def open(self) -> None:
        """See :meth:`AsyncStore.open`."""

    def close(self) -> None:
        """See :meth:`AsyncStore.close`."""

    def claim(self, claim: Claim, *, over: bytes | None = None) -> Record | None:
        """See :meth:`AsyncStore.claim`."""

    def renew(self, name: bytes, fence: bytes, lease: timedelta) -> Renewal:
        """See :meth:`AsyncStore.renew`."""

    def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> datetime | None:
        """See :meth:`AsyncStore.complete`."""

    def release(self, name: bytes, fence: bytes, *, lapsed_only: bool = False) -> bool:
        """See :meth:`AsyncStore.release`."""

    def wait(self, name: bytes, fence: bytes, delay: timedelta, failed_runs: int, failed_undos: int) -> bool:
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

    def get(self, name: bytes) -> Record | None:
        """See :meth:`AsyncStore.get`."""

    def standing(self, names: Collection[bytes]) -> Mapping[bytes, Standing]:
        """See :meth:`AsyncStore.standing`."""

    def sweep(self, limit: int = 500) -> Swept:
        """See :meth:`AsyncStore.sweep`."""
