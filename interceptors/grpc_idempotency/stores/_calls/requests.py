"""The requests of a store to its engine: each call is one of these objects until it is answered.

They are not frozen, because none outlives its call, and they compare by identity.
"""

import asyncio
import contextvars
import logging
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, Protocol, TypeVar

from grpc_idempotency.errors import StoreError, StoreUnavailable
from grpc_idempotency.records import Claim, Note, Outcome, Record, Renewal, Standing, State, Step, Swept
from grpc_idempotency.transactions import Database, RunningOperation

T = TypeVar("T")
_PREFIX = re.compile(r"[0-9a-fA-F]{0,32}").fullmatch
_log = logging.getLogger("grpc_idempotency.stores")


@dataclass(slots=True, eq=False, repr=False)
class Request(Generic[T]):
    """A call that waits for its answer. The store sets ``loop``, ``waiter`` and ``tables``; the engine, the answer."""

    value: T = field(init=False)
    error: BaseException | None = field(default=None, init=False)
    loop: asyncio.AbstractEventLoop | None = field(init=False)
    """The caller's event loop; ``None`` if the caller waits in a thread."""
    waiter: Any = field(init=False)
    """What the caller waits for: a future of its loop; in a thread a lock, which is released with the answer."""
    tables: Any = field(init=False)
    """The engine's tables that the request is for, where the engine serves several stores."""

    def settle(self) -> None:
        """Passes the answer to the caller. Runs in the caller's loop; the caller may have stopped waiting."""
        waiter = self.waiter
        if self.loop is None:
            waiter.release()
        elif waiter.done():
            return
        elif self.error is not None:
            waiter.set_exception(self.error)
        else:
            waiter.set_result(self.value)

    def end(self) -> None:
        """Tells others the result of the request, in any thread: it is answered, or could not be submitted."""


class Engine(Protocol):
    """Answers the requests of one or more stores, in any thread."""

    @property
    def failure(self) -> StoreError | None:
        """The reason why no request can be submitted any more; ``None`` as long as requests can be submitted."""

    def submit(self, request: Request[Any]) -> None:
        """Queues a request, which is answered by ``settle`` in its loop. Called in the caller's thread.

        Args:
            request: A request on which everything is set except ``value`` and ``error``.
        """


@dataclass(slots=True, eq=False, repr=False)
class ClaimRequest(Request[Record | None]):
    """``claim``."""

    claim: Claim
    over: bytes | None

    def met(self, record: Record) -> Record | None:
        """Returns the answer to this claim after it has met ``record``, which it could not take over."""
        own = record.fence == self.claim.fence and record.state in (State.RUNNING, State.UNDOING)
        return None if own else record


@dataclass(slots=True, eq=False, repr=False)
class FencedRequest(Request[T]):
    """A change that only the owner of the record's fence may make."""

    name: bytes
    fence: bytes


@dataclass(slots=True, eq=False, repr=False)
class CompleteRequest(FencedRequest[datetime | None]):
    """``complete``."""

    outcome: Outcome
    ttl: timedelta


@dataclass(slots=True, eq=False, repr=False)
class UnclaimedRequest(Request[datetime | Record]):
    """``complete_unclaimed``."""

    claim: Claim
    outcome: Outcome
    ttl: timedelta


@dataclass(slots=True, eq=False, repr=False)
class ReleaseRequest(FencedRequest[bool]):
    """``release``."""


@dataclass(slots=True, eq=False, repr=False)
class ReleaseLapsedRequest(FencedRequest[bool]):
    """``release`` with ``lapsed_only``."""


@dataclass(slots=True, eq=False, repr=False)
class RenewRequest(FencedRequest[Renewal]):
    """``renew``."""

    lease: timedelta


@dataclass(slots=True, eq=False, repr=False)
class HoldRequest(FencedRequest[bool]):
    """``hold``."""

    reason: str
    lapsed_only: bool


@dataclass(slots=True, eq=False, repr=False)
class WaitRequest(FencedRequest[bool]):
    """``wait``."""

    delay: timedelta
    failed_runs: int
    failed_undos: int


@dataclass(slots=True, eq=False, repr=False)
class UndoRequest(FencedRequest[bool]):
    """``undo``."""

    failure: Outcome


@dataclass(slots=True, eq=False, repr=False)
class StepRequest(FencedRequest[bool]):
    """``record_step``."""

    step: Step


@dataclass(slots=True, eq=False, repr=False)
class ResolveRequest(FencedRequest[bool]):
    """``resolve``."""

    outcome: Outcome | None
    ttl: timedelta
    note: Note | None


@dataclass(slots=True, eq=False, repr=False)
class ForgetRequest(FencedRequest[bool]):
    """``forget``."""

    note: Note | None


@dataclass(slots=True, eq=False, repr=False)
class GetRequest(Request[Record | None]):
    """``get``."""

    name: bytes


@dataclass(slots=True, eq=False, repr=False)
class StandingRequest(Request[Mapping[bytes, Standing]]):
    """``standing``."""

    names: tuple[bytes, ...]


@dataclass(slots=True, eq=False, repr=False)
class StepsRequest(Request[Sequence[Step]]):
    """``steps``."""

    name: bytes


@dataclass(slots=True, eq=False, repr=False)
class PendingRequest(Request[Sequence[Record]]):
    """``pending``."""

    methods: tuple[str, ...]
    limit: int


Place = tuple[datetime, bytes]
"""The position of a record in a list: the time of its first claim, and its name."""


@dataclass(slots=True, eq=False, repr=False)
class ListRequest(Request[tuple[Sequence[Record], Place | None]]):
    """One bounded part of ``list``.

    Its value is some records, and the position after which the next part begins, if there is one.
    """

    after: Place | None
    limit: int
    state: State | None = None
    method: str | None = None
    newest_first: bool = False
    since: datetime | None = None
    until: datetime | None = None
    stuck: bool = False


@dataclass(slots=True, eq=False, repr=False)
class FindRequest(Request[Sequence[Record]]):
    """``find``: the records whose names are between two names, which are included."""

    least: bytes
    most: bytes
    limit: int

    @classmethod
    def of(cls, prefix: str, limit: int) -> "FindRequest":
        """Makes the request for the names that begin with these hexadecimal digits.

        Raises:
            ValueError: These are no digits, or too many.
        """
        if not _PREFIX(prefix):
            raise ValueError(f"an operation's name has up to 32 hexadecimal digits, unlike {prefix!r}")
        return cls(bytes.fromhex(prefix.ljust(32, "0")), bytes.fromhex(prefix.ljust(32, "f")), limit)


Counts = Mapping[tuple[str, State], int]


@dataclass(slots=True, eq=False, repr=False)
class CountRequest(Request[tuple[Counts, Any]]):
    """One bounded part of ``count``.

    Its value is the counts of this part, and what the next part has as ``after``; ``None`` if this part is the last.
    """

    completed: bool
    after: Any = None


@dataclass(slots=True, eq=False, repr=False)
class MethodsRequest(Request[Collection[str]]):
    """``methods``."""


@dataclass(slots=True, eq=False, repr=False)
class NotesRequest(Request[Sequence[Note]]):
    """``notes``."""

    name: bytes


@dataclass(slots=True, eq=False, repr=False)
class SweepRequest(Request[Swept]):
    """One bounded part of ``sweep``."""

    limit: int


@dataclass(slots=True, eq=False, repr=False)
class TransactionRequest(Request[Any]):
    """``transaction`` and ``read``."""

    fn: Callable[[Database], Any]
    operation: RunningOperation | None = None
    make_step: Callable[[Any], Step] | None = None
    reads: bool = False
    """True if it is a ``read``, which leaves no rows."""
    context: contextvars.Context = field(default_factory=contextvars.copy_context, init=False)
    """The caller's context, in which the function runs."""
    committed: Outcome | None = field(default=None, init=False)
    """The outcome that is committed with the rows."""
    completed_at: datetime | None = field(default=None, init=False)
    """When that outcome was stored."""
    step: Step | None = field(default=None, init=False)
    """The step that is committed with the rows."""

    def begin(self) -> None:
        """Makes the end of the operation wait for this transaction, unless it is a step's.

        A step's transaction is waited for together with the step.
        """
        if self.operation is not None and self.make_step is None:
            self.operation.begin_transaction(self)

    def end(self) -> None:
        """Tells the operation the result of this transaction.

        The outcome may be stored although the caller was cancelled or its loop has stopped.
        """
        if self.operation is None:
            return
        if isinstance(self.error, StoreUnavailable):
            self.operation.uncommitted = self.error
        elif self.committed is not None and self.error is None:
            self.operation.committed = self.committed
            self.operation.completed_at = self.completed_at
        self.operation.end_transaction(self)


def deliver(requests: Sequence[Request[Any]]) -> None:
    """Passes the answers of requests to their callers, with one call into each loop. For engines, in any thread."""
    loops: dict[asyncio.AbstractEventLoop | None, list[Request[Any]]] = {}
    for request in requests:
        if type(request) is TransactionRequest:
            request.end()
        if request.loop in loops:
            loops[request.loop].append(request)
        else:
            loops[request.loop] = [request]
    for loop, answered in loops.items():
        if loop is None:
            _settle(answered)
        else:
            with suppress(RuntimeError):  # the loop is closed, so no caller in it waits any more
                loop.call_soon_threadsafe(_settle, answered)


def _settle(requests: Sequence[Request[Any]]) -> None:
    for request in requests:
        try:
            request.settle()
        except Exception:  # a bug that affects one answer must not keep the others from their callers
            _log.exception("an answer could not be given")
            if request.loop is not None:
                request.waiter.cancel()


class Gathering:
    """Lets requests come together before an engine's thread takes the next group of them.

    Callers that were answered together ask again at slightly different times. A group costs hand-overs between the
    threads and a commit, so a few large ones take much less processor time than many small ones. After a lone request
    there is no wait, except every 64th time: many callers may be there, but come one by one, each one late.

    Nothing more is waited for once as many requests wait as there were together of late: all callers have come.

    While transactions wait for connections, requests come as slowly as transactions end, and what is answered sooner
    waits there. So they may as well come together.

    Args:
        waiting: Returns how many requests wait.
        crowded: Returns ``True`` if transactions wait for connections. ``None``: none ever does.
    """

    LINGER_EACH = 60e-6
    """Seconds to wait after a small group, for each request in it."""
    MANY = 8
    """So many requests at once show that there are many callers: the next group gathers as long as requests come. While
    transactions wait for connections, it gathers so many."""
    STEP = 0.0005
    LONGEST = 0.01
    """Gathering ends when no request has come for so many seconds (``STEP``), and at most after so many."""
    PROBE_EVERY = 64
    """Every so many groups, the next one gathers."""

    def __init__(self, waiting: Callable[[], int], crowded: Callable[[], bool] | None = None) -> None:
        self._waiting = waiting
        self._crowded = crowded
        self._groups = 0
        self._callers = 0
        """How many requests there were together of late."""

    def wait(self, answered: int, together: int) -> None:
        """Waits for further requests.

        Args:
            answered: How many requests were just answered.
            together: The same, with those that had come meanwhile.
        """
        self._groups += 1
        self._callers = max(together, self._callers * 7 // 8)
        many = together >= self.MANY
        if not many and self._crowded is not None and self._crowded():
            until = time.monotonic() + self.LONGEST
            while self._waiting() < self.MANY and time.monotonic() < until:
                time.sleep(self.STEP)
        elif many or not self._groups % self.PROBE_EVERY:
            until = time.monotonic() + self.LONGEST
            size, before = self._waiting(), -1
            while size != before and not (many and size >= self._callers) and time.monotonic() < until:
                time.sleep(self.STEP)
                size, before = self._waiting(), size
        elif answered > 1:
            time.sleep(answered * self.LINGER_EACH)
