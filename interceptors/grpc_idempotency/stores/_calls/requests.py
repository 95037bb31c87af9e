"""What a store asks of its engine: each call is one of these values until it is answered.

They are not frozen, since none outlives its call, and are told apart by identity.
"""

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, Protocol, TypeVar

from grpc_idempotency.errors import StoreError, StoreUnavailable
from grpc_idempotency.records import Claim, Outcome, Record, State, Step, Swept
from grpc_idempotency.store import Database, RunningOperation

T = TypeVar("T")


class Threads:
    """Takes the place of the event loop for callers that wait in threads: they can be answered at once."""

    def call_soon_threadsafe(self, do: Callable[..., object], *args: object) -> None:
        """Calls ``do`` with these arguments."""
        do(*args)


THREADS = Threads()


@dataclass(slots=True, eq=False, repr=False)
class Request(Generic[T]):
    """A call that waits for its answer. Its store addresses it, and its engine sets ``value`` or ``error``."""

    value: T = field(init=False)
    error: BaseException | None = field(default=None, init=False)
    loop: asyncio.AbstractEventLoop | Threads = field(init=False)
    """The caller's event loop."""
    future: Any = field(init=False)
    """The future that the caller waits for, of asyncio or of ``concurrent.futures``."""
    tables: Any = field(init=False)
    """Which tables of the engine's it is about, for an engine that serves several stores."""

    def settle(self) -> None:
        """Hands the answer to the caller, in its loop; nobody may be waiting any more."""
        future = self.future
        if future.done():
            return
        if self.error is not None:
            future.set_exception(self.error)
        else:
            future.set_result(self.value)

    def end(self) -> None:
        """Tells others what has become of the request, in any thread: it is answered, or could not be asked."""


class Engine(Protocol):
    """What answers the requests of one or more stores, in whatever thread."""

    @property
    def failure(self) -> StoreError | None:
        """Why nothing can be submitted any more; ``None`` as long as it can."""

    def submit(self, request: Request[Any]) -> None:
        """Queues a request, which is answered by ``settle`` in its loop. Called in the caller's thread.

        Args:
            request: A request with everything set but ``value`` or ``error``.
        """


@dataclass(slots=True, eq=False, repr=False)
class ClaimRequest(Request[Record | None]):
    """``claim``."""

    claim: Claim
    over: bytes | None


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
class RenewRequest(FencedRequest[bool]):
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
    tries: int
    undo_tries: int


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


@dataclass(slots=True, eq=False, repr=False)
class GetRequest(Request[Record | None]):
    """``get``."""

    name: bytes


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
"""A record's place in a list: when it was created, and its name."""


@dataclass(slots=True, eq=False, repr=False)
class ListRequest(Request[tuple[Sequence[Record], Place | None]]):
    """One bounded part of ``list``: some records, and the place behind which the next part begins, if there is one."""

    after: Place | None
    state: State | None
    method: str | None
    limit: int


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
    """Whether it is a ``read``, which leaves no rows."""
    context: contextvars.Context = field(default_factory=contextvars.copy_context, init=False)
    """The caller's context, for the function to run in."""
    committed: Outcome | None = field(default=None, init=False)
    """The outcome that is committed with the rows."""
    completed_at: datetime | None = field(default=None, init=False)
    """When that outcome was stored."""
    step: Step | None = field(default=None, init=False)
    """The step that is committed with the rows."""

    def begin(self) -> None:
        """Has the operation's end wait for this; a step's transaction is waited for with the step."""
        if self.operation is not None and self.make_step is None:
            self.operation.begin_transaction(self)

    def end(self) -> None:
        """Tells the operation what has become of this.

        The caller's loop may have stopped, or its caller have been cancelled: the outcome is stored all the same.
        """
        if self.operation is None:
            return
        if isinstance(self.error, StoreUnavailable):
            self.operation.uncommitted = self.error
        elif self.committed is not None and self.error is None:
            self.operation.committed = self.committed
            self.operation.completed_at = self.completed_at
        self.operation.end_transaction(self)
