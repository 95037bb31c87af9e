"""The errors of the services, in one table of reasons, and how they are sent to clients (AIP-193)."""

import enum
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, NoReturn, TypeVar

import grpc
from google.rpc import error_details_pb2, status_pb2

from grpc_idempotency import StoreUnavailable
from grpc_idempotency.aio import current_operation

DOMAIN = "shop"
"""The domain of every ErrorInfo of the services."""

_MOST_DETAIL = 2048
"""The most bytes of field violations. All metadata of an answer, with base64 and the text, must stay below 8 KiB."""
_MOST_TEXT = 400
"""The most characters of a message's variable."""

S = TypeVar("S")
Req = TypeVar("Req")
Res = TypeVar("Res")
Context = grpc.aio.ServicerContext[Any, Any]


class _Row(NamedTuple):
    status: grpc.StatusCode
    message: str
    retry_after: timedelta | None = None


class Reason(enum.Enum):
    """Why a call was refused: the status and the message. A message's variables are also the ErrorInfo's metadata."""

    INVALID_REQUEST = _Row(
        grpc.StatusCode.INVALID_ARGUMENT,
        "The request is not valid: {problems}.",
    )
    USER_NOT_FOUND = _Row(
        grpc.StatusCode.NOT_FOUND,
        "There is no user with the id '{id}'.",
    )
    RESERVATION_NOT_FOUND = _Row(
        grpc.StatusCode.NOT_FOUND,
        "There is no reservation with the id '{id}'.",
    )
    ORDER_NOT_FOUND = _Row(
        grpc.StatusCode.NOT_FOUND,
        "There is no order with the id '{id}'.",
    )
    EMAIL_TAKEN = _Row(
        grpc.StatusCode.ALREADY_EXISTS,
        "Another user has this email address.",
    )
    ETAG_MISMATCH = _Row(
        grpc.StatusCode.ABORTED,
        "'{id}' has changed since the etag was read. Get it again, and decide again with its present etag.",
    )
    RESERVATIONS_ACTIVE = _Row(
        grpc.StatusCode.FAILED_PRECONDITION,
        "The user '{id}' has {count} active reservation(s). Capture or release them first.",
    )
    RESERVATION_NOT_ACTIVE = _Row(
        grpc.StatusCode.FAILED_PRECONDITION,
        "The reservation '{id}' is not active but {state}, and that is final.",
    )
    CURRENCY_DIFFERS = _Row(
        grpc.StatusCode.FAILED_PRECONDITION,
        "The wallet of the user '{id}' is in {wallet}, not in {currency}.",
    )
    BALANCE_TOO_SMALL = _Row(
        grpc.StatusCode.FAILED_PRECONDITION,
        "The wallet of the user '{id}' holds {balance}, less than {amount}. Add credit first.",
    )
    BALANCE_TOO_LARGE = _Row(
        grpc.StatusCode.OUT_OF_RANGE,
        "The wallet of the user '{id}' can't hold {amount} more.",
    )
    ORDER_NOT_PENDING = _Row(
        grpc.StatusCode.FAILED_PRECONDITION,
        "The order '{id}' is not pending but {state}, and that is final.",
    )
    ORDER_IN_CHECKOUT = _Row(
        grpc.StatusCode.FAILED_PRECONDITION,
        "The order '{id}' is being checked out. Get it again later: it will be confirmed or pending.",
    )
    CUSTOMER_NOT_FOUND = _Row(
        grpc.StatusCode.FAILED_PRECONDITION,
        "The customer '{id}' of the order is not a user of the shop, so there is no wallet to pay from.",
    )
    CAPTURE_REFUSED = _Row(
        grpc.StatusCode.FAILED_PRECONDITION,
        "The reservation '{id}' for the order was {state} by somebody else, so nothing is paid. Check out again.",
    )
    USERS_UNAVAILABLE = _Row(
        grpc.StatusCode.UNAVAILABLE,
        "The user service can't be used just now ({status}). The checkout goes on by itself when it can.",
        retry_after=timedelta(seconds=1),
    )
    ORDER_FULL = _Row(
        grpc.StatusCode.FAILED_PRECONDITION,
        "The order '{id}' has {most} items, and no order can have more.",
    )
    IMPORT_TRUNCATED = _Row(
        grpc.StatusCode.CANCELLED,
        "{announced} messages were announced and {came} came, so nothing was created. Send all of them again.",
    )
    STOPPING = _Row(
        grpc.StatusCode.UNAVAILABLE,
        "This server is stopping. Call again.",
        retry_after=timedelta(seconds=1),
    )
    DATABASE_UNAVAILABLE = _Row(
        grpc.StatusCode.UNAVAILABLE,
        "The shop's database can't be used just now. {effect}. Try again.",
        retry_after=timedelta(seconds=1),
    )


class Refused(Exception):
    """A call was refused for a reason that its caller can act on. Expected in normal use.

    If it is raised in a transaction's function, it also rolls the transaction back.
    """

    def __init__(self, reason: Reason, **variables: str) -> None:
        self.reason = reason
        self.variables = {name: _cut(value) for name, value in variables.items()}
        super().__init__(reason.value.message.format_map(self.variables))

    def details(self) -> status_pb2.Status:
        """Returns the status details, as ``grpc-status-details-bin`` carries them."""
        info = error_details_pb2.ErrorInfo(reason=self.reason.name, domain=DOMAIN, metadata=self.variables)
        status = status_pb2.Status(code=self.reason.value.status.value[0], message=str(self))
        status.details.add().Pack(info)
        if self.reason.value.retry_after is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromTimedelta(self.reason.value.retry_after)
            status.details.add().Pack(retry)
        return status


class InvalidRequest(Refused):
    """Fields of the request are not valid. The error names all of them. Expected in normal use."""

    def __init__(self, problems: Sequence[tuple[str, str]], count: int) -> None:
        super().__init__(Reason.INVALID_REQUEST, problems="; ".join(f"{field} {what}" for field, what in problems))
        self.problems = problems
        """Each field and what it must be; only the first ones if there are very many."""
        self.count = count
        """The number of all violations."""

    def details(self) -> status_pb2.Status:
        """Adds a BadRequest with as many violations as fit."""
        bad = error_details_pb2.BadRequest()
        for field, what in self.problems:
            bad.field_violations.add(field=field, description=what)
            if bad.ByteSize() > _MOST_DETAIL:
                break
        if untold := self.count - len(bad.field_violations):
            bad.field_violations[-1].description += f" (and {untold} more violations)"
        status = super().details()
        status.details.add().Pack(bad)
        return status


def answers(
    method: Callable[[S, Req, Context], Coroutine[Any, Any, Res]],
) -> Callable[[S, Req, Context], Coroutine[Any, Any, Res]]:
    """Makes a handler with one response send its errors as a status with details."""

    @functools.wraps(method)
    async def handler(self: S, request: Req, context: Context) -> Res:
        try:
            return await method(self, request, context)
        except (Refused, StoreUnavailable) as error:
            await _refuse(error, context)

    return handler


def answers_stream(
    method: Callable[[S, Req, Context], AsyncIterator[Res]],
) -> Callable[[S, Req, Context], AsyncIterator[Res]]:
    """Makes a handler with a stream of responses send its errors as a status with details."""

    @functools.wraps(method)
    async def handler(self: S, request: Req, context: Context) -> AsyncIterator[Res]:
        try:
            async for reply in method(self, request, context):
                yield reply
        except (Refused, StoreUnavailable) as error:
            await _refuse(error, context)

    return handler


async def _refuse(error: Refused | StoreUnavailable, context: Context) -> NoReturn:
    refused = error if isinstance(error, Refused) else _unavailable(error)
    trailers = (("grpc-status-details-bin", refused.details().SerializeToString()),)
    await context.abort(refused.reason.value.status, str(refused), trailers)


def _unavailable(error: StoreUnavailable) -> Refused:
    """Returns the error for a store's failure in an un-keyed call.

    In a keyed call it raises the failure, which the interceptor answers from what it knows of the record.
    """
    if current_operation() is not None:
        raise error
    effect = "Nothing has changed" if error.landed is False else "Nobody can know whether the call took effect"
    return Refused(Reason.DATABASE_UNAVAILABLE, effect=effect)


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 1]}…"
