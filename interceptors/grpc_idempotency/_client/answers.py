"""What a client can read in an answer of a server that keeps keys: the trailers and refusals of 2.2 and 2.3."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from grpc_idempotency._protocol.refusals import DOMAIN, Reason, Refusal
from grpc_idempotency._wire.trailers import PUSH_BACK, STATUS, STATUS_DETAILS

if TYPE_CHECKING:
    import grpc


def status_of(answer: "grpc.Call | grpc.RpcError") -> str | None:
    """How a call was answered: ``executed``, ``replayed``, ``attached``, ``refused`` or ``unprotected`` (2.2).

    Takes a call of ``grpc`` that has ended, as ``with_call`` answers with, or the error of either kind of channel.
    ``None``: the server treated it as un-keyed, or was not heard at all.
    """
    return status_in(answer.trailing_metadata())


def status_in(trailers: Any) -> str | None:
    """The same, of an answer's trailers."""
    status = _values(trailers).get(STATUS)
    return status if isinstance(status, str) else None


def refusal_of(error: BaseException) -> Refusal | None:
    """Why the server refused a call, with all variables of its message (2.3).

    ``None`` for any other error: the handler's, the network's, or a refusal for a reason of a newer version.
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
    """How long the server asks to wait before the call is made again: google.rpc.RetryInfo.

    Negative: not at all, as is a duration that none can wait for.
    """
    for detail in _details(error):
        info = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            return _duration(seconds=info.retry_delay.seconds, microseconds=info.retry_delay.nanos // 1000)
    return None


def push_back(error: BaseException) -> timedelta | None:
    """The same, by gRPC's own ``grpc-retry-pushback-ms``; negative: not at all, as is what is not a number."""
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
