"""Makes the event of a call's answer, once it is clear that an observer wants it."""

from datetime import datetime, timedelta, timezone
from typing import Protocol

from grpc_idempotency._protocol.effects import Answer, Call, Status
from grpc_idempotency._protocol.refusals import Reason, Refusal
from grpc_idempotency._server.clock import now
from grpc_idempotency._server.replays import Kept
from grpc_idempotency._server.target import Target
from grpc_idempotency.events import CallAnswered
from grpc_idempotency.records import Code, Outcome

Reply = Answer | Refusal | Outcome | Kept
"""The answer to a call. A bare :class:`Outcome` is a refusal as gRPC itself would make it."""

_NO_TIME = timedelta(0)


class Execution(Protocol):
    """An execution, as far as the event needs it."""

    @property
    def call(self) -> Call:
        """The call that leads it."""


class Exchange(Protocol):
    """The exchange of a call, as far as the event of its answer needs it."""

    @property
    def target(self) -> Target:
        """The handler."""

    @property
    def name(self) -> bytes | None:
        """The operation's name, if it is known."""

    @property
    def reply(self) -> Reply | None:
        """The answer; ``None`` if the call has no key, or its client has gone away."""

    @property
    def execution(self) -> Execution | None:
        """The execution in this process that the call has led or attached to."""

    @property
    def waited(self) -> float:
        """The seconds in which the call waited for another's run."""


def call_answered(exchange: Exchange, code: Code, began: float) -> CallAnswered:
    """Returns the event.

    Args:
        exchange: The exchange of the call.
        code: The status code of a call without an answer of the interceptor's.
        began: When the call came, by the clock for leases.
    """
    seconds, reply, operation = now() - began, exchange.reply, exchange.name
    status: Status | None = None
    reason: Reason | None = None
    created: datetime | None = None
    trace = b""
    if isinstance(reply, Answer):
        status, created, code = reply.mark, reply.created, reply.outcome.status
        if reply.record is not None:
            trace = reply.record.trace
        elif exchange.execution is not None:
            trace = exchange.execution.call.trace
    elif isinstance(reply, Kept):
        status, created, code = Status.REPLAYED, reply.at, reply.outcome.status
        operation, trace = reply.name, reply.trace
    elif isinstance(reply, Refusal):
        status, reason, code = Status.REFUSED, reply.reason, reply.reason.status
    elif reply is not None:
        status, code = Status.REFUSED, reply.status
    age = None if created is None else max(_NO_TIME, datetime.now(timezone.utc) - created)
    method = exchange.target.method.name
    # By position, since that takes half the time.
    return CallAnswered(method, operation, status, reason, code, seconds, exchange.waited, age, trace)
