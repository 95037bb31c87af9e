"""The operation as the interceptors and the stores see it: the part that is the same on asyncio and on threads."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar

from grpc_idempotency._operation.ambient import HOLDER, Holder
from grpc_idempotency._operation.scope import CURRENT, Scope, scope_of
from grpc_idempotency._operation.steps import Steps, Undo
from grpc_idempotency.errors import FenceRefused, PolicyError, StepMisuse, StoreUnavailable, TransactionMisuse
from grpc_idempotency.records import Claim, Outcome, Record, Step

logger = logging.getLogger("grpc_idempotency")

PATIENCE = 10.0
"""Seconds that a run which only collects undos waits for the handler's other tasks or threads to reach their steps."""


class Running:
    """One run of a keyed call, under a fence, whose outcome is not stored yet."""

    awaited: ClassVar[bool]
    """True if its handler is an ``async def`` one."""

    def __init__(
        self,
        *,
        name: bytes,
        method: str,
        fence: bytes,
        attempt: int,
        principal: bytes,
        store: Any,
        ttl: timedelta,
        make_outcome: Callable[[object], Outcome],
        accepts: Callable[[object], bool] = lambda _: False,
        leased: Callable[[], bool] = lambda: True,
        finished: Sequence[Step] = (),
        unwinds: bool = False,
        claim: Claim | None = None,
        claiming: Callable[[], object] = lambda: None,
        claimed: Callable[[], object] = lambda: None,
        recorded: Callable[[str], object] | None = None,
        calls: Any = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.name = name
        """16 bytes: the digest that names the operation."""
        self.method = method
        """The full method name, ``/package.Service/Method``."""
        self.fence = fence
        """16 bytes: this run's own fence, which every write to the record carries."""
        self.attempt = attempt
        """The number of this run's claim: 1 in the first run, more after a run that was cut short or failed."""
        self.principal = principal
        """The principal, as the principal function named it; the same in a run without the client (5.4)."""
        self.store = store
        """The store that has the operation's record."""
        self._calls = store if calls is None else calls
        """The store, with calls that observers are told of."""
        self.ttl = ttl
        """How long the outcome is kept."""
        self.claim = claim
        """The claim of this run while it is not written; ``None`` once it is (5.1)."""
        self._claiming = claiming
        """Called before an unclaimed operation is claimed for a step."""
        self._claimed = claimed
        """Called when that claim is written."""
        self._recorded = recorded
        """Called with the name of a step, or of an undo, when it is stored; ``None`` if nobody wants to know."""
        self._make_outcome = make_outcome
        self._accepts = accepts
        self._leased = leased
        self._lapsed = False
        """True if a step was refused because the lease had run out. It may have been renewed since."""
        self._finished = finished
        self.has_steps: bool = bool(finished)
        """True if a step is finished, in this run or an earlier one; or has begun, and may be finished."""
        self._unwinds = unwinds
        self._loop = loop
        self._lock = threading.Lock()
        """Guards the transactions; in the operation of a ``def`` handler, the steps too."""
        self._transactions: set[object] = set()
        """The handler's own transactions that the store has not answered yet."""

    # Class attributes until they are set: each keyed call makes an operation, and few need most of these.
    committed: Outcome | None = None
    """The outcome that a transaction of this run has committed, if any. Set by the store."""
    completed_at: datetime | None = None
    """When that outcome was stored. Set by the store."""
    uncommitted: StoreUnavailable | None = None
    """The error with which the commit of a transaction of this run failed, if one did. Set by the store."""
    unconfirmed: Outcome | None = None
    """The outcome that was written in a transaction which the handler opened itself, if any (5.6). Set by the store."""
    handlers: Any = None
    """The operation as the handler sees it, once the handler has asked for it."""
    ended: bool = False
    """True once the handler has ended: no further step begins, and tasks and threads it left have no operation."""

    _steps: Steps | None = None
    _scope: Scope | None = None
    _moved: Any = None
    """The future or condition for the next begin or end of a step, or the handler's end; made when first needed."""

    @property
    def steps(self) -> Steps:
        """The steps of this run."""
        steps = self._steps
        if steps is None:
            steps = self.__dict__.setdefault("_steps", Steps(self._finished, unwinds=self._unwinds))  # atomic
            steps.closed = self.ended
        return steps

    @property
    def scope(self) -> Scope:
        """The scope that gives calls to other services their keys, outside of steps (5.3)."""
        scope = self._scope
        if scope is None:
            scope = self.__dict__.setdefault("_scope", scope_of(self.name))  # atomic
            scope.ended = self.ended
        return scope

    def end(self) -> bool:
        """Notes that the handler has ended. For the interceptors.

        Returns:
            True if it has left steps or transactions running, which must be waited for.
        """
        self.ended = True
        if self._moved is not None:
            self._stir()
        if self._scope is not None:
            self._scope.ended = True
        if self._steps is not None:
            self._steps.closed = True
            return self._steps.running or bool(self._transactions)
        return bool(self._transactions)

    def make_outcome(self, reply: object) -> Outcome:
        """Returns the outcome of the call if ``reply`` is its reply, with the status and trailers set so far.

        For a store's ``transaction``: if the status of the outcome is not OK, the transaction must be rolled back.

        Raises:
            TransactionMisuse: A step is running.
            Unwinding: This run only collects undos, and has no reply.
        """
        if self._unwinds or self._steps is not None:
            self.steps.check_reply()
        return self._make_outcome(reply)

    def accepts(self, value: object) -> bool:
        """True if a value could be the call's reply. For the stores."""
        return self._accepts(value)

    def begin_transaction(self, transaction: object) -> None:
        """Notes that the handler has asked for a transaction which is not a step's. For the stores.

        The handler may end before the transaction is answered, if it was cancelled, or if another task awaits the
        answer. The transaction may still commit the outcome, so the operation's end waits for :meth:`end_transaction`.

        Raises:
            TransactionMisuse: The handler has ended already.
        """
        if self.ended:
            raise TransactionMisuse(
                "the transaction comes too late: its handler has ended. Await store.transaction before it does"
            )
        self._transactions.add(transaction)

    def end_transaction(self, transaction: object) -> None:
        """Notes that this transaction is answered. For the stores."""
        self._transactions.discard(transaction)

    def _stir(self) -> None:
        """Wakes the tasks or threads that wait."""
        raise NotImplementedError

    def _ask(self, name: str, undo: Callable[..., Any] | None, transaction: bool, *, beside: bool) -> Step | None:
        if self.committed is not None:
            raise StepMisuse(f"step {name!r} comes too late: the handler's transaction has committed its reply")
        self._check_lease()
        step = self.steps.begin(name, None if undo is None else Undo(undo, transaction), beside=beside)
        self.has_steps = True
        return step

    def _won(self, standing: Record | None) -> None:
        """Notes that the claim is written. It is needed before the first step: only a record can keep steps.

        Raises:
            FenceRefused: The run is pre-empted by a record.
        """
        if standing is not None:
            raise FenceRefused("the operation has another owner: its step was not begun")
        self.claim = None
        self._claimed()

    def _check_lease(self) -> None:
        """Checks that no other run may have replaced this one, so that it may begin a step or an undo (4.9).

        Raises:
            FenceRefused: The lease has run out, or was lost.
        """
        if not self._leased():
            self._lapsed = True
            raise FenceRefused(_LAPSED)

    def _check_undos(self) -> None:
        """Checks that the handler was not kept from making known how its steps are undone.

        Raises:
            FenceRefused: A step of this run was refused because the lease had run out.
        """
        if self._lapsed:
            raise FenceRefused(_LAPSED)

    def _is_beside(self, name: str) -> bool:
        """True if the caller is another task or thread than the handler's.

        Raises:
            StepMisuse: The caller is within a step or a transaction.
        """
        holder = HOLDER.get()
        if holder is None or holder.operation is not self:
            return True
        if holder.within is not None:
            raise StepMisuse(f"step {name!r} can't begin within {holder.within}: a later run would not come to it")
        return not holder.asks

    def _transacting(self) -> Any:
        transaction = getattr(self._calls, "transaction", None)
        if transaction is None:
            raise PolicyError(
                f"step(transaction=True) needs a store with transactions; {type(self.store).__name__} has none."
            )
        return transaction


def undoing(undo: Undo, result: object) -> Callable[..., Any]:
    """Returns the function that undoes a step, which is run as a step itself."""
    return (lambda db: undo.fn(db, result)) if undo.transaction else (lambda: undo.fn(result))


class Kept:
    """Makes a step from what the function of a transaction returned, and remembers it."""

    def __init__(self, steps: Steps, name: str) -> None:
        self._steps = steps
        self._name = name
        self.step: Step

    def __call__(self, result: object) -> Step:
        self.step = self._steps.made(self._name, result)
        return self.step


_LAPSED = "the operation's lease has run out, so that another run of it may have begun"
NOT_OURS = "the operation has another owner by now, or has kept a step of this name: nothing was kept"


def trouble(method: str, error: BaseException) -> str:
    """Logs the error of an undo, and returns the cause in words."""
    logger.error("an undo of %s failed", method, exc_info=error)
    what = str(error) if isinstance(error, StepMisuse) else f"an undo failed with {type(error).__name__}"
    return f"it has failed and could not be undone: {what}"


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Returns the event loop that runs in the calling thread, if any."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:  # this thread has none
        return None


def enter(operation: Running | None, owner: object = None) -> None:
    """Makes the calling task or thread the operation's handler, and the operation's scope the current one.

    For the interceptors.

    Args:
        operation: The operation; ``None`` if the caller has none.
        owner: The calling task, or the calling thread's id. ``None``: every task and thread with this context.
    """
    if CURRENT.get() is not None:
        CURRENT.set(None)
    HOLDER.set(None if operation is None else Holder(operation, owner))
