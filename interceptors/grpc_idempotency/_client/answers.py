"""Reads the trailers and refusals of 2.2 and 2.3 from an answer, for clients."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from grpc_idempotency._protocol.refusals import DOMAIN, Reason, Refusal
from grpc_idempotency._wire.trailers import PUSH_BACK, STATUS, STATUS_DETAILS

if TYPE_CHECKING:
    import grpc


def status_of(answer: "grpc.Call | grpc.RpcError") -> str | None:
    """Returns how a call was answered (2.2).

    Args:
        answer: A call of ``grpc`` that has ended, as ``with_call`` returns it, or the error of either kind of channel.

    Returns:
        ``executed``, ``replayed``, ``attached``, ``refused`` or ``unprotected``. ``None`` if the server treated the
        call as un-keyed, or no answer came.
    """
    return status_in(answer.trailing_metadata())


def status_in(trailers: Any) -> str | None:
    """Returns how a call was answered, from its trailers."""
    status = _values(trailers).get(STATUS)
    return status if isinstance(status, str) else None


def refusal_of(error: BaseException) -> Refusal | None:
    """Returns the refusal in an error, with all variables of its message (2.3).

    Args:
        error: The error of either kind of channel.

    Returns:
        The refusal. ``None`` for any other error: of the handler, of the network, or a refusal whose reason only a
        newer version knows.
    """
    for detail in _details(error):
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN and info.reason in Reason.__members__:
            return Refusal(
                reason=Reason[info.reason],
                variables=dict(info.metadata),
                retry_after=retry_info(error),
                push_back=push_back(error) is not None,
            )
    return None


def retry_info(error: BaseException) -> timedelta | None:
    """Returns the delay after which to retry, from google.rpc.RetryInfo.

    It is negative if the call shall not be retried, or if the delay is out of range. ``None`` if there is no RetryInfo.
    """
    for detail in _details(error):
        info = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            return _duration(seconds=info.retry_delay.seconds, microseconds=info.retry_delay.nanos // 1000)
    return None


def push_back(error: BaseException) -> timedelta | None:
    """Returns the delay after which to retry, from gRPC's own ``grpc-retry-pushback-ms``.

    It is negative if the call shall not be retried, or if the value is not a number. ``None`` if there is no push-back.
    """
    value = _values(_trailers(error)).get(PUSH_BACK)
    if value is None:
        return None
    try:
        return _duration(milliseconds=int(value))
    except ValueError:
        return _NEVER


_NEVER = timedelta(milliseconds=-1)


def _duration(**parts: int) -> timedelta:
    try:
        return timedelta(**parts)
    except OverflowError:
        return _NEVER


def _details(error: BaseException) -> Any:
    packed = _values(_trailers(error)).get(STATUS_DETAILS)
    if not isinstance(packed, bytes):
        return ()
    try:
        return status_pb2.Status.FromString(packed).details
    except DecodeError:
        return ()


def _trailers(error: BaseException) -> Any:
    read = getattr(error, "trailing_metadata", None)
    return read() if callable(read) else None


def _values(trailers: Any) -> dict[str, str | bytes]:
    return {key: value for key, value in trailers or ()}  # noqa: C416  # grpc's entries are tuples, its types say else
