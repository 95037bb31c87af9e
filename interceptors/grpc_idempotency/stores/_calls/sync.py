"""The calls of a store for ``grpc.server``.

The contracts in ``grpc_idempotency.store`` and ``grpc_idempotency.transactions`` say what each call does.
"""

import abc
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from grpc_idempotency.errors import TransactionMisuse
from grpc_idempotency.records import Claim, Note, Outcome, Record, Renewal, Standing, State, Step, Swept
from grpc_idempotency.stores._calls.nesting import MISUSE, inside
from grpc_idempotency.stores._calls.parts import Parts, counting, listing, sweeping
from grpc_idempotency.stores._calls.requests import (
    ClaimRequest,
    CompleteRequest,
    Engine,
    FindRequest,
    ForgetRequest,
    GetRequest,
    HoldRequest,
    MethodsRequest,
    NotesRequest,
    PendingRequest,
    ReleaseLapsedRequest,
    ReleaseRequest,
    RenewRequest,
    Request,
    ResolveRequest,
    StandingRequest,
    StepRequest,
    StepsRequest,
    TransactionRequest,
    UnclaimedRequest,
    UndoRequest,
    WaitRequest,
)
from grpc_idempotency.stores._calls.transactions import is_unknown, transacting
from grpc_idempotency.transactions import Database

T = TypeVar("T")


class Calls(abc.ABC):
    """The calls of a store, which block."""

    _opened: tuple[Engine, Any] | None = None
    """The engine, and the store's tables in it, while the store is open."""

    @abc.abstractmethod
    def open(self) -> None:
        """Makes the store ready, and sets ``_opened``."""

    @abc.abstractmethod
    def close(self) -> None:
        """Finishes the calls that have begun, and releases all resources."""

    def claim(self, claim: Claim, *, over: bytes | None = None) -> Record | None:
        """Claims the operation if it is absent, or lapsed under the fence ``over``."""
        return self._ask(ClaimRequest(claim, over))

    def renew(self, name: bytes, fence: bytes, lease: timedelta) -> Renewal:
        """Sets the lease of a running or undoing record to end ``lease`` from now."""
        return self._ask(RenewRequest(name, fence, lease))

    def complete(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> datetime | None:
        """Stores the outcome of a running, undoing or held record."""
        return self._ask(CompleteRequest(name, fence, outcome, ttl))

    def release(self, name: bytes, fence: bytes, *, lapsed_only: bool = False) -> bool:
        """Deletes a running, undoing or held record."""
        return self._ask((ReleaseLapsedRequest if lapsed_only else ReleaseRequest)(name, fence))

    def wait(self, name: bytes, fence: bytes, delay: timedelta, failed_runs: int, failed_undos: int) -> bool:
        """Makes a running or undoing record waiting."""
        return self._ask(WaitRequest(name, fence, delay, failed_runs, failed_undos))

    def undo(self, name: bytes, fence: bytes, failure: Outcome) -> bool:
        """Makes a running record undoing, and stores the failure with it."""
        return self._ask(UndoRequest(name, fence, failure))

    def record_step(self, name: bytes, fence: bytes, step: Step) -> bool:
        """Stores a finished step of a running, undoing or held record."""
        return self._ask(StepRequest(name, fence, step))

    def steps(self, name: bytes) -> Sequence[Step]:
        """Reads the finished steps of an operation, in the order in which they were recorded."""
        return self._ask(StepsRequest(name))

    def pending(self, methods: Collection[str], limit: int = 100) -> Sequence[Record]:
        """Reads lapsed records of these methods that can be dealt with without their clients."""
        return self._ask(PendingRequest(tuple(methods), limit))

    def hold(self, name: bytes, fence: bytes, reason: str, *, lapsed_only: bool = False) -> bool:
        """Makes a running or undoing record held."""
        return self._ask(HoldRequest(name, fence, reason, lapsed_only))

    def get(self, name: bytes) -> Record | None:
        """Reads a record. Returns ``None`` if it is absent."""
        return self._ask(GetRequest(name))

    def standing(self, names: Collection[bytes]) -> Mapping[bytes, Standing]:
        """Reads the standings of many operations at once, by name. Absent operations are missing."""
        return self._ask(StandingRequest(tuple(names)))

    def sweep(self, limit: int = 500) -> Swept:
        """Deletes expired records."""
        return self._ask_all(sweeping(limit))

    # -- for operators

    def list(
        self,
        *,
        state: State | None = None,
        method: str | None = None,
        after: Record | None = None,
        limit: int = 100,
        newest_first: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
        stuck: bool = False,
    ) -> Sequence[Record]:
        """Reads records in the order of their first claims."""
        chosen = {"state": state, "method": method, "since": since, "until": until}
        return self._ask_all(listing(after, limit, newest_first=newest_first, stuck=stuck, **chosen))

    def find(self, prefix: str, limit: int = 2) -> Sequence[Record]:
        """Reads records whose names begin with these hexadecimal digits."""
        return self._ask(FindRequest.of(prefix, limit))

    def count(self, *, completed: bool = True) -> Mapping[tuple[str, State], int]:
        """Counts the records of each method and state."""
        return self._ask_all(counting(completed))

    def methods(self) -> Collection[str]:
        """Reads the names of the methods that have records."""
        return self._ask(MethodsRequest())

    def notes(self, name: bytes) -> Sequence[Note]:
        """Reads what operators did to an operation, the oldest note first."""
        return self._ask(NotesRequest(name))

    def resolve(
        self, name: bytes, fence: bytes, outcome: Outcome | None, ttl: timedelta, note: Note | None = None
    ) -> bool:
        """Resolves a held record as an operator decided."""
        return self._ask(ResolveRequest(name, fence, outcome, ttl, note))

    def forget(self, name: bytes, fence: bytes, note: Note | None = None) -> bool:
        """Deletes a record whose lease does not hold."""
        return self._ask(ForgetRequest(name, fence, note))

    # -- within

    def _ask(self, request: Request[T], opened: tuple[Engine, Any] | None = None) -> T:
        """Submits a request and waits for the answer. Opens the store first if necessary.

        The request goes to the store's engine, unless ``opened`` names another one.
        """
        view = inside.get()
        if view is not None and not view.ended:
            raise TransactionMisuse(MISUSE)
        if opened is None:
            opened = self._opened
            if opened is None or opened[0].failure is not None:
                return self._open_and_ask(request)
        engine, request.tables = opened
        request.loop = None
        request.waiter = answered = threading.Lock()  # the cheapest thing to wait for: a future is made of several
        answered.acquire()
        engine.submit(request)
        answered.acquire()
        if request.error is not None:
            try:
                raise request.error
            finally:
                del request  # the error has this frame, and must not be had by it
        return request.value

    def _open_and_ask(self, request: Request[T]) -> T:
        try:
            self.open()
        except BaseException as error:
            request.error = error
            request.end()
            raise
        return self._ask(request)

    def _ask_all(self, parts: Parts[T]) -> T:
        try:
            request = next(parts)
            while True:
                request = parts.send(self._ask(request))
        except StopIteration as done:
            value: T = done.value
            return value


class TransactionalCalls(Calls):
    """The calls of a store whose database can also hold the handler's rows."""

    @property
    @abc.abstractmethod
    def identity(self) -> str | None:
        """The id of the store's operations in their database; ``None`` before the store was opened first."""

    def transaction(self, fn: Callable[[Database], T], *, step: Callable[[T], Step] | None = None) -> T:
        """Runs the plain function ``fn(db)`` in one transaction, with a keyed call's outcome or a step in it (5.1)."""
        if self._opened is None and is_unknown(self):
            self.open()
        value: T = self._ask(transacting(self, fn, step))
        return value

    def read(self, fn: Callable[[Database], T]) -> T:
        """Returns the result of the plain function ``fn(db)``, which only reads; it is never a keyed call's reply.

        The function sees the database as it was at one instant.
        """
        value: T = self._ask(TransactionRequest(fn, reads=True))
        return value


class OneCommitCalls(TransactionalCalls):
    """The calls of a store that can write an operation's record first in the commit of its transaction."""

    def complete_unclaimed(self, claim: Claim, outcome: Outcome, ttl: timedelta) -> datetime | Record:
        """Stores a completed record of an operation that was never claimed."""
        return self._ask(UnclaimedRequest(claim, outcome, ttl))
