"""Makes the reply to a call from an outcome or a refusal, with the library's trailers (2.2, 2.3)."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from grpc_idempotency._protocol.effects import Answer, Status
from grpc_idempotency._protocol.refusals import DOMAIN, Refusal
from grpc_idempotency._wire.trailers import CREATED, PUSH_BACK, STATUS, STATUS_DETAILS
from grpc_idempotency.records import Outcome, Trailers

if TYPE_CHECKING:
    from google.protobuf.message import Message


MARKS: Mapping[Status, Trailers] = {mark: ((STATUS, mark.value),) for mark in Status}
"""The trailer that says how a call was answered (2.2)."""


def reply_to(answer: Answer | Refusal | Outcome) -> Outcome:
    """Returns the outcome that is sent, with the library's trailers (2.2).

    A bare :class:`Outcome` is a refusal as gRPC itself would make it, without a reason in the table of refusals.
    """
    if isinstance(answer, Refusal):
        return _refusal_outcome(answer)
    if isinstance(answer, Outcome):
        return replace(answer, trailers=MARKS[Status.REFUSED])
    ours = MARKS[answer.mark]
    if answer.created is not None:
        ours += ((CREATED, rfc3339(answer.created)),)
    told = answer.outcome
    return Outcome(status=told.status, message=told.message, details=told.details, trailers=told.trailers + ours)


def _refusal_outcome(refusal: Refusal) -> Outcome:
    trailers = (*MARKS[Status.REFUSED], (STATUS_DETAILS, _details_of(refusal).SerializeToString()))
    if refusal.push_back and refusal.retry_after is not None:
        trailers += ((PUSH_BACK, str(round(refusal.retry_after / timedelta(milliseconds=1)))),)
    return Outcome(status=refusal.reason.status, details=refusal.message, trailers=trailers)


def _details_of(refusal: Refusal) -> status_pb2.Status:
    """Returns the status details of a refusal: the ErrorInfo of AIP-193, and the details that the table adds."""
    info = error_details_pb2.ErrorInfo(reason=refusal.reason.name, domain=DOMAIN, metadata=dict(refusal.variables))
    details: list[Message] = [info]
    if refusal.reason.value.bad_request:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=refusal.variables["field"], description=refusal.message
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if refusal.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromTimedelta(refusal.retry_after)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=refusal.reason.status, message=refusal.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def rfc3339(moment: datetime) -> str:
    """Formats an instant in UTC, to the millisecond (RFC 3339)."""
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
