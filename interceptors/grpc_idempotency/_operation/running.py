"""The operation as the interceptors and the stores have it, and what is alike on asyncio and on threads."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar

from grpc_idempotency._operation import ambient
from grpc_idempotency._operation.scope import CURRENT, Scope, scope_of
from grpc_idempotency._operation.steps import Steps, Undo
from grpc_idempotency.errors import FenceRefused, PolicyError, StepMisuse, StoreUnavailable, TransactionMisuse
from grpc_idempotency.records import Claim, Outcome, Record, Step

logger = logging.getLogger("grpc_idempotency")

PATIENCE = 10.0
"""Seconds that a run which only unwinds waits for the handler's other tasks or threads to come to their steps."""


class Running:
    """One run of a keyed call: claimed, under a fence, its outcome not yet stored."""

    awaited: ClassVar[bool]
    """Whether it is an ``async def`` handler's."""

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
        seal: Callable[[object], Outcome],
        answers: Callable[[object], bool] = lambda _: False,
        leased: Callable[[], bool] = lambda: True,
        finished: Sequence[Step] = (),
        unwinds: bool = False,
        claim: Claim | None = None,
        claiming: Callable[[], object] = lambda: None,
        claimed: Callable[[], object] = lambda: None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.name = name
        """16 bytes: the digest that names the operation."""
        self.method = method
        """The full method name, ``/package.Service/Method``."""
        self.fence = fence
        """16 bytes: this run's own fence, given with every write about the operation."""
        self.attempt = attempt
        """1 in the first run, more when a run before it was cut short or has failed."""
        self.principal = principal
        """Whose operation it is, as the scope function named it; the same in a run without its client (5.4)."""
        self.store = store
        """The store that holds the operation's record."""
        self.ttl = ttl
        """How long its outcome will be kept."""
        self.claim = claim
        """The claim of this run, as long as it is not written; ``None`` where it is (5.1)."""
        self._claiming = claiming
        """Called before the claim is asked for after all."""
        self._claimed = claimed
        """Called when it is written."""
        self._seal = seal
        self._answers = answers
        self._leased = leased
        self._finished = finished
        self._unwinds = unwinds
        self._loop = loop
        self._lock = threading.Lock()
        """Guards the transactions; in a ``def`` handler's operation the steps too."""
        self._transactions: set[object] = set()
        """The handler's own transactions that the store has not answered yet."""

    # Of the class until they are set: each keyed call makes an operation, and few have use for most of this.
    committed: Outcome | None = None
    """The outcome that a transaction of this run has committed, if one has. Set by the store."""
    completed_at: datetime | None = None
    """When that outcome was stored. Set by the store."""
    uncommitted: StoreUnavailable | None = None
    """The error with which a transaction of this run could not be committed, if so. Set by the store."""
    handlers: Any = None
    """The operation as the handler sees it, once it has asked for it."""
    over: bool = False
    """True once the handler has ended: no further step begins, and what it left behind has no operation."""

    _steps: Steps | None = None
    _scope: Scope | None = None
    _moved: Any = None
    """What those wait for who want to hear of a step's beginning or end, or the handler's, once somebody does."""

    @property
    def steps(self) -> Steps:
        """The steps of this run."""
        steps = self._steps
        if steps is None:
            steps = self.__dict__.setdefault("_steps", Steps(self._finished, unwinds=self._unwinds))  # atomic
            steps.over = self.over
        return steps

    @property
    def scope(self) -> Scope:
        """Where calls to other services get their keys from, outside of steps (5.3)."""
        scope = self._scope
        if scope is None:
            scope = self.__dict__.setdefault("_scope", scope_of(self.name))  # atomic
            scope.over = self.over
        return scope

    @property
    def has_steps(self) -> bool:
        """True if a step is finished, in this run or one before, or was begun and may be."""
        return bool(self._finished) or bool(self._steps)

    def end(self) -> bool:
        """For the interceptors: the handler has ended.

        Returns:
            True if it has left steps or transactions running, whose end is to be waited for.
        """
        self.over = True
        if self._moved is not None:
            self._stir()
        if self._scope is not None:
            self._scope.over = True
        if self._steps is not None:
            self._steps.over = True
            return self._steps.running or bool(self._transactions)
        return bool(self._transactions)

    def seal(self, reply: object) -> Outcome:
        """The outcome that the call has if ``reply`` is its reply: serialized, with the status and trailers set so far.

        For a store's ``transaction``: an outcome whose status is not OK must be rolled back, not committed. In a run
        that only undoes there is none: this raises.
        """
        if self._unwinds or self._steps is not None:
            self.steps.check_reply()
        return self._seal(reply)

    def answers(self, value: object) -> bool:
        """For the stores: whether a value could be the call's reply."""
        return self._answers(value)

    def begin_transaction(self, transaction: object) -> None:
        """For the stores: a transaction of the handler's own, no step's, is asked for.

        Nobody may be waiting for its answer when the handler ends: a cancelled one, or one that a task awaits. It may
        commit the outcome all the same, so the operation's end waits for :meth:`end_transaction`.

        Raises:
            TransactionMisuse: The handler has ended already.
        """
        if self.over:
            raise TransactionMisuse(
                "the transaction comes too late: its handler has ended. Await store.transaction before it does"
            )
        self._transactions.add(transaction)

    def end_transaction(self, transaction: object) -> None:
        """For the stores: this transaction is answered."""
        self._transactions.discard(transaction)

    def _stir(self) -> None:
        """Wakes those who wait."""
        raise NotImplementedError

    def _ask(self, name: str, undo: Callable[..., Any] | None, transaction: bool, *, beside: bool) -> Step | None:
        if self.committed is not None:
            raise StepMisuse(f"step {name!r} comes too late: the handler's transaction has committed its reply")
        self._check_lease()
        return self.steps.begin(name, None if undo is None else Undo(undo, transaction), beside=beside)

    def _won(self, standing: Record | None) -> None:
        """The claim is written, before the first step: an operation without a record can't keep any.

        Raises:
            FenceRefused: A record stands in its way.
        """
        if standing is not None:
            raise FenceRefused("the operation has another owner: its step was not begun")
        self.claim = None
        self._claimed()

    def _check_lease(self) -> None:
        """Sees to it that a run that another one may have replaced begins nothing any more (4.9)."""
        if not self._leased():
            raise FenceRefused("the operation's lease has run out, so that another run of it may have begun")

    def _is_beside(self, name: str) -> bool:
        """Whether the caller is not the handler itself. Raises :class:`StepMisuse` within a step."""
        holder = ambient.inherited()
        if holder is None or holder.operation is not self:
            return True
        if holder.within is not None:
            raise StepMisuse(f"step {name!r} can't begin within {holder.within}: a later run would not come to it")
        return not holder.asks

    def _transacting(self) -> Any:
        transaction = getattr(self.store, "transaction", None)
        if transaction is None:
            raise PolicyError(
                f"step(transaction=True) needs a store with transactions; {type(self.store).__name__} has none."
            )
        return transaction


def undoing(undo: Undo, result: object) -> Callable[..., Any]:
    """What undoes a step, to be run as a step itself."""
    return (lambda db: undo.fn(db, result)) if undo.transaction else (lambda: undo.fn(result))


class Kept:
    """Makes the step of what a transaction's function returned, and remembers it."""

    def __init__(self, steps: Steps, name: str) -> None:
        self._steps = steps
        self._name = name
        self.step: Step

    def __call__(self, result: object) -> Step:
        self.step = self._steps.made(self._name, result)
        return self.step


NOT_OURS = "the operation has another owner by now, or has kept a step of this name: nothing was kept"


def trouble(method: str, error: BaseException) -> str:
    """Logs the error of an undo, and puts it in words."""
    logger.error("an undo of %s failed", method, exc_info=error)
    what = str(error) if isinstance(error, StepMisuse) else f"an undo failed with {type(error).__name__}"
    return f"it has failed and could not be undone: {what}"


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The calling thread's event loop, if one runs there."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:  # this thread has none
        return None


def current() -> Running | None:
    """The operation that the caller has, be it a handler itself or one of its steps."""
    holder = ambient.held()
    return holder.operation if holder is not None else None


def behind() -> Running | None:
    """The operation whose handler has started the calling task or thread, or is it, while the handler runs."""
    holder = ambient.inherited()
    return None if holder is None or holder.operation.over else holder.operation


def enter(operation: Running | None, owner: object = None) -> None:
    """Makes the calling task or thread the operation's handler, and its scope that of calls (for the interceptors).

    Args:
        operation: The operation; ``None``: the caller has none.
        owner: The calling task, or the calling thread's id. ``None``: every task and thread with this context.
    """
    if CURRENT.get() is not None:
        CURRENT.set(None)
    ambient.HOLDER.set(None if operation is None else ambient.Holder(operation, owner))
