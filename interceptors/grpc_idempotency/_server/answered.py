"""Makes the event of a call's answer, once it is clear that an observer wants it."""

from datetime import datetime, timedelta, timezone

from grpc_idempotency._protocol.effects import Answer, Status
from grpc_idempotency._protocol.refusals import Refusal
from grpc_idempotency._server.replays import Kept
from grpc_idempotency.events import CallAnswered
from grpc_idempotency.records import Code, Outcome

Reply = Answer | Refusal | Outcome | Kept
"""The answer to a call. A bare :class:`Outcome` is a refusal as gRPC itself would make it."""


def call_answered(
    method: str,
    operation: bytes | None,
    reply: Reply | None,
    code: Code,
    *,
    seconds: float,
    waited: float,
    trace: bytes,
) -> CallAnswered:
    """Returns the event.

    Args:
        method: The full method name.
        operation: The operation's name, if it is known; not needed for a reply that was kept.
        reply: The answer; ``None`` if the call has no key, or its client has gone away.
        code: The status code of a call without an answer of the interceptor's.
        seconds: The time to the answer.
        waited: The seconds in which the call waited for another's run.
        trace: The trace context of the call whose execution in this process the call has led or attached to.
    """
    status: Status | None = None
    created: datetime | None = None
    match reply:
        case Kept():
            operation, status, created, trace = reply.name, Status.REPLAYED, reply.at, reply.trace
            code = reply.outcome.status
        case Answer(outcome, status, created, record):
            code = outcome.status
            if record is not None:
                trace = record.trace
        case Refusal():
            status, code, trace = Status.REFUSED, reply.reason.status, b""
        case Outcome():
            status, code, trace = Status.REFUSED, reply.status, b""
        case None:
            trace = b""
    return CallAnswered(
        method=method,
        operation=operation,
        status=status,
        reason=reply.reason if isinstance(reply, Refusal) else None,
        code=code,
        seconds=seconds,
        waited=waited,
        age=None if created is None else max(timedelta(0), datetime.now(timezone.utc) - created),
        trace=trace,
    )
