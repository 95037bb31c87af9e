"""What callers ask of the writer: each call of the store is one of these values until it is answered."""

import asyncio
import contextvars
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.records import Claim, Outcome, Record, State, Step, Swept
from grpc_idempotency.store import Database, RunningOperation
from grpc_idempotency.stores._sqlite.tables import Tables

T = TypeVar("T")


class Threads:
    """Stands where callers in a loop have their loop, for those who wait in threads: they can be answered at once."""

    def call_soon_threadsafe(self, do: Callable[..., object], *args: object) -> None:
        """Does it."""
        do(*args)


THREADS = Threads()


class Request(Generic[T]):
    """A call that waits for its answer. Written by the writer's thread, read in the caller's loop once it is done."""

    __slots__ = ("error", "future", "loop", "tables", "value")

    value: T
    error: BaseException | None
    loop: asyncio.AbstractEventLoop | Threads
    future: Any
    """The future that the caller waits for, of asyncio or of ``concurrent.futures``."""
    tables: Tables

    def begin(self) -> None:
        """Is called before the request is queued, for those that an operation has to know of."""

    def settle(self) -> None:
        """Hands the answer to the caller, in its loop; nobody may be waiting any more."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.value)


class Prepare(Request[None]):
    """Creates, migrates or just checks the tables."""

    __slots__ = ()


class Flush(Request[None]):
    """Is answered when all that came before it is done."""

    __slots__ = ()


class ClaimRequest(Request[Record | None]):
    """``claim``."""

    __slots__ = ("claim", "over", "taken_over")

    def __init__(self, claim: Claim, over: bytes | None) -> None:
        self.claim = claim
        self.over = over
        self.taken_over = False


class FencedRequest(Request[T]):
    """A change that only the owner of the record's fence may make."""

    __slots__ = ("fence", "name")

    def __init__(self, name: bytes, fence: bytes) -> None:
        self.name = name
        self.fence = fence


class CompleteRequest(FencedRequest[datetime | None]):
    """``complete``."""

    __slots__ = ("outcome", "ttl")

    def __init__(self, name: bytes, fence: bytes, outcome: Outcome, ttl: timedelta) -> None:
        super().__init__(name, fence)
        self.outcome = outcome
        self.ttl = ttl


class UnclaimedRequest(Request[datetime | Record]):
    """``complete_unclaimed``."""

    __slots__ = ("claim", "outcome", "ttl")

    def __init__(self, claim: Claim, outcome: Outcome, ttl: timedelta) -> None:
        self.claim = claim
        self.outcome = outcome
        self.ttl = ttl


class ReleaseRequest(FencedRequest[bool]):
    """``release``."""

    __slots__ = ()


class RenewRequest(FencedRequest[bool]):
    """``renew``."""

    __slots__ = ("lease",)

    def __init__(self, name: bytes, fence: bytes, lease: timedelta) -> None:
        super().__init__(name, fence)
        self.lease = lease


class HoldRequest(FencedRequest[bool]):
    """``hold``."""

    __slots__ = ("lapsed_only", "reason")

    def __init__(self, name: bytes, fence: bytes, reason: str, lapsed_only: bool) -> None:
        super().__init__(name, fence)
        self.reason = reason
        self.lapsed_only = lapsed_only


class WaitRequest(FencedRequest[bool]):
    """``wait``."""

    __slots__ = ("delay", "tries", "undo_tries")

    def __init__(self, name: bytes, fence: bytes, delay: timedelta, tries: int, undo_tries: int) -> None:
        super().__init__(name, fence)
        self.delay = delay
        self.tries = tries
        self.undo_tries = undo_tries


class UndoRequest(FencedRequest[bool]):
    """``undo``."""

    __slots__ = ("failure",)

    def __init__(self, name: bytes, fence: bytes, failure: Outcome) -> None:
        super().__init__(name, fence)
        self.failure = failure


class StepRequest(FencedRequest[bool]):
    """``record_step``."""

    __slots__ = ("step",)

    def __init__(self, name: bytes, fence: bytes, step: Step) -> None:
        super().__init__(name, fence)
        self.step = step


class ResolveRequest(FencedRequest[bool]):
    """``resolve``."""

    __slots__ = ("outcome", "ttl")

    def __init__(self, name: bytes, fence: bytes, outcome: Outcome | None, ttl: timedelta) -> None:
        super().__init__(name, fence)
        self.outcome = outcome
        self.ttl = ttl


class GetRequest(Request[Record | None]):
    """``get``."""

    __slots__ = ("name",)

    def __init__(self, name: bytes) -> None:
        self.name = name


class ListRequest(Request[tuple[Sequence[Record], tuple[int, bytes] | None]]):
    """One bounded part of ``list``: some records, and behind what the next part begins, if there is one."""

    __slots__ = ("after", "limit", "method", "state")

    def __init__(self, after: tuple[int, bytes], state: State | None, method: str | None, limit: int) -> None:
        self.after = after
        self.state = state
        self.method = method
        self.limit = limit


class StepsRequest(Request[Sequence[Step]]):
    """``steps``."""

    __slots__ = ("name",)

    def __init__(self, name: bytes) -> None:
        self.name = name


class PendingRequest(Request[Sequence[Record]]):
    """``pending``."""

    __slots__ = ("limit", "methods")

    def __init__(self, methods: Collection[str], limit: int) -> None:
        self.methods = tuple(methods)
        self.limit = limit


class SweepRequest(Request[Swept]):
    """``sweep``."""

    __slots__ = ("limit",)

    def __init__(self, limit: int) -> None:
        self.limit = limit


class TransactionRequest(Request[Any]):
    """``transaction``."""

    __slots__ = ("committed", "completed_at", "context", "fn", "make_step", "operation", "reads", "step")

    def __init__(
        self,
        fn: Callable[[Database], Any],
        operation: RunningOperation | None = None,
        make_step: Callable[[Any], Step] | None = None,
        *,
        reads: bool = False,
    ) -> None:
        self.fn = fn
        self.reads = reads
        """Whether it is a ``read``, which leaves no rows."""
        self.operation = operation
        self.make_step = make_step
        self.context = contextvars.copy_context()
        self.committed: Outcome | None = None
        self.completed_at: datetime | None = None
        """When the outcome was stored that is to be committed."""
        self.step: Step | None = None

    def begin(self) -> None:
        """Has the operation's end wait for this; a step's transaction is waited for with the step."""
        if self.operation is not None and self.make_step is None:
            self.operation.begin_transaction(self)

    def tell(self, error: StoreUnavailable) -> None:
        """Tells the operation why its transaction is not committed."""
        if self.operation is not None:
            self.operation.uncommitted = error

    def end(self) -> None:
        """Tells the operation what has become of this, in the writer's thread.

        The caller's loop may have stopped, or its caller have been cancelled: the outcome is stored all the same.
        """
        if self.operation is None:
            return
        if self.committed is not None and self.error is None:
            self.operation.committed = self.committed
            self.operation.completed_at = self.completed_at
        self.operation.end_transaction(self)
