"""Events made by hand, as interceptors make them."""

from datetime import timedelta
from typing import Any

from grpc_idempotency import Code, Reason, State
from grpc_idempotency.events import (
    BatchCommitted,
    CallAnswered,
    Ending,
    Event,
    ExecutionEnded,
    Fate,
    LeaseLost,
    RecordsCounted,
    Recovered,
    RecoveryEnded,
    Status,
    Swept,
    TakenOver,
)

METHOD = "/test.Service/Do"
NAME = bytes(range(16))
TRACE = bytes(range(1, 25)) + b"\x01"


def answered(status: Status | None = Status.EXECUTED, *, method: str = METHOD, **fields: Any) -> CallAnswered:
    """Makes the end of a call; without more, of one that was executed in 20 ms."""
    fields = {
        "operation": NAME,
        "reason": None,
        "code": Code.OK,
        "seconds": 0.02,
        "waited": 0.0,
        "age": None,
        "trace": b"",
    } | fields
    return CallAnswered(method=method, status=status, **fields)


def refused(reason: Reason) -> CallAnswered:
    return answered(Status.REFUSED, reason=reason, code=reason.status)


def of_each_kind() -> list[Event]:
    """Returns one event at least of each class that is counted."""
    operation: Any = {"method": METHOD, "operation": NAME}
    return [
        answered(),
        answered(Status.REPLAYED, age=timedelta(seconds=7), code=Code.NOT_FOUND),
        refused(Reason.KEY_REUSED),
        answered(None, operation=None),
        answered(None, code=Code.CANCELLED),
        ExecutionEnded(**operation, attempt=1, ended=Ending.ANSWERED, seconds=0.01),
        RecoveryEnded(**operation, attempt=2, ended=Ending.RAISED, seconds=0.01),
        TakenOver(**operation, attempt=2, cut_short=True),
        LeaseLost(**operation, for_good=True),
        Recovered(**operation, fate=Fate.HOLD, reason=""),
        RecordsCounted(counts={(METHOD, State.HELD): 1, (METHOD, State.COMPLETED): 9}, completed=True),
        BatchCommitted(size=3, seconds=0.004),
        Swept(deleted=5, freed_bytes=0, seconds=0.1),
    ]
