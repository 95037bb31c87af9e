"""Makes the events of an execution, once it is clear that an observer or the log wants them."""

import logging

from grpc_idempotency._compat import assert_never
from grpc_idempotency._operation.steps import undone_by
from grpc_idempotency._protocol.effects import (
    Answered,
    Call,
    Conclusion,
    CutShort,
    Ended,
    Executed,
    Found,
    InDoubt,
    Raised,
    Refused,
    Released,
    RolledBack,
    Tell,
    Told,
    Unprotected,
    Waits,
)
from grpc_idempotency._protocol.refusals import Reason
from grpc_idempotency._server.observers import Observers
from grpc_idempotency.events import (
    Became,
    Claimed,
    Ending,
    ExecutionEnded,
    ExecutionStarted,
    Held,
    LeaseLost,
    RecoveryEnded,
    RecoveryStarted,
    Settled,
    StepFinished,
    StepUndone,
    TakenOver,
)

logger = logging.getLogger("grpc_idempotency")


def tell(observers: Observers, call: Call, effect: Tell, *, ran: bool) -> None:
    """Performs the effect of a plan that tells something rare.

    Args:
        observers: The observers.
        call: The call that leads the execution.
        effect: The effect.
        ran: True if the execution has run its handler.
    """
    method, operation = call.method, call.name
    match effect.told:
        case Told.TOOK_OVER | Told.RUNS_AGAIN:
            cut_short = effect.told is Told.TOOK_OVER
            observers.announce(TakenOver(method, operation, effect.attempt, cut_short))
        case Told.HELD:
            observers.announce(Held(method=method, operation=operation, reason=effect.reason))
            if ran and observers.settled is not None:
                observers.settled(Settled(method=method, operation=operation, became=Became.HELD))
        case Told.WAITS:
            observers.announce(Settled(method=method, operation=operation, became=Became.WAITING))
        case Told.GIVEN_UP:
            observers.announce(Settled(method=method, operation=operation, became=Became.UNDOING))
        case Told.STRIPPED:
            logger.warning(
                "operation %s of %s is stored without status message and trailing metadata: the store can't keep them",
                operation.hex(),
                method,
            )
        case _:
            raise AssertionError(f"no execution performs {effect!r}")


def lease_lost(observers: Observers, call: Call, told: Told) -> None:
    """Tells that a lease ended while its operation ran: ``LOST`` or ``LAPSED``."""
    observers.announce(LeaseLost(method=call.method, operation=call.name, for_good=told is Told.LOST))


def claimed(observers: Observers, call: Call) -> None:
    """Tells of the first claim of an operation."""
    assert observers.claimed is not None
    observers.claimed(Claimed(call.method, call.name, attempt=1, cut_short=False))


def started(observers: Observers, call: Call, attempt: int) -> None:
    """Tells that the handler is about to run, if an observer wants to know. Called in the handler's context."""
    if call.lapsed is not None:
        if observers.recovery_started is not None:
            observers.recovery_started(RecoveryStarted(call.method, call.name, attempt, call.trace))
    elif observers.execution_started is not None:
        observers.execution_started(ExecutionStarted(call.method, call.name, attempt, call.trace))


def ended(observers: Observers, call: Call, attempt: int, how: Ended | None, seconds: float) -> None:
    """Tells that the handler has ended, if an observer wants to know. Called in the handler's context.

    Args:
        observers: The observers.
        call: The call that leads the execution.
        attempt: The number of the claim.
        how: How the handler has ended; ``None`` if the server stopped before.
        seconds: How long it ran.
    """
    match how:
        case Answered():
            ending = Ending.ANSWERED
        case Raised():
            ending = Ending.RAISED
        case RolledBack():
            ending = Ending.ROLLED_BACK
        case InDoubt():
            ending = Ending.IN_DOUBT
        case CutShort.CANCELLED:
            ending = Ending.CANCELLED
        case CutShort.OVERRAN | CutShort.ABANDONED:
            ending = Ending.OVERRAN
        case None:
            ending = Ending.STOPPED
        case _:
            assert_never(how)
    if call.lapsed is not None:
        if observers.recovery_ended is not None:
            observers.recovery_ended(RecoveryEnded(call.method, call.name, attempt, ending, seconds))
    elif observers.execution_ended is not None:
        observers.execution_ended(ExecutionEnded(call.method, call.name, attempt, ending, seconds))


def recorded(observers: Observers, call: Call, name: str) -> None:
    """Tells that a step or an undo is stored, by its name in the store."""
    undone = undone_by(name)
    if undone is not None:
        if observers.step_undone is not None:
            observers.step_undone(StepUndone(method=call.method, operation=call.name, step=undone))
    elif observers.step_finished is not None:
        observers.step_finished(StepFinished(method=call.method, operation=call.name, step=name))


def settled(observers: Observers, call: Call, conclusion: Conclusion) -> None:
    """Tells what a run has come to, unless a plan has told it already."""
    match conclusion:
        case Executed():
            became = Became.COMPLETED
        case Released():
            became = Became.RELEASED
        case Unprotected():
            became = Became.UNPROTECTED
        case Waits():
            return
        case Refused(refusal) if refusal.reason is Reason.OUTCOME_UNKNOWN:
            return
        case Found() | Refused():
            became = Became.LOST
        case _:
            assert_never(conclusion)
    assert observers.settled is not None
    observers.settled(Settled(method=call.method, operation=call.name, became=became))
