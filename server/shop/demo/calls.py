"""What a client does here: a call by generated stubs, with a key in its metadata. No retrying code, none of ours."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from shop.demo.stage import short

M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Message)
_DEADLINE = 20.0


def new_key() -> str:
    """A key as a client makes one: once per operation."""
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply(Generic[R]):
    """What came back: a message, or a status other than OK."""

    message: R | None = None
    status: str = "OK"
    details: str = ""
    trailers: Mapping[str, str | bytes]

    @property
    def how(self) -> str:
        """The trailer ``idempotency-status``: executed, replayed, attached or refused; empty where none came."""
        return str(self.trailers.get("idempotency-status", ""))

    @property
    def same(self) -> bytes:
        """What must be equal in two replies to one operation."""
        return b"" if self.message is None else self.message.SerializeToString(deterministic=True)

    @property
    def error_info(self) -> error_details_pb2.ErrorInfo:
        """The ``google.rpc.ErrorInfo`` of a refusal; an empty one where none came."""
        info = error_details_pb2.ErrorInfo()
        packed = self.trailers.get("grpc-status-details-bin", b"")
        assert isinstance(packed, bytes)  # as that of every name in -bin
        for detail in status_pb2.Status.FromString(packed).details:
            detail.Unpack(info)
        return info

    def shown_trailers(self) -> str:
        """The trailers, as a person may read them."""
        texts = [f"{name}: {value}" for name, value in self.trailers.items() if isinstance(value, str)]
        info = self.error_info
        if info.reason:
            texts.append(f"ErrorInfo {{reason: {info.reason}, domain: {info.domain}}}")
        return ", ".join(texts) or "none"


async def send(method: "grpc.aio.UnaryUnaryMultiCallable[M, R]", request: M, key: str) -> Reply[R]:
    """One call. The key in the metadata is all that is asked of a client."""
    call = method(request, metadata=(("idempotency-key", key),), timeout=_DEADLINE, wait_for_ready=True)
    try:
        message = await call
    except grpc.aio.AioRpcError as error:
        return Reply(
            status=error.code().name, details=error.details() or "", trailers=_mapping(error.trailing_metadata())
        )
    return Reply(message=message, trailers=_mapping(await call.trailing_metadata()))


async def resend(method: "grpc.aio.UnaryUnaryMultiCallable[M, R]", request: M, key: str) -> Reply[R]:
    """The same call again, as often as its client hears nothing: a broken connection may take a moment to be seen."""
    while True:
        reply = await send(method, request, key)
        if reply.status != "UNAVAILABLE" or reply.trailers:
            return reply


def shown_key(key: str) -> str:
    """The metadata, as printed."""
    return f"idempotency-key: {short(key)}"


def _mapping(metadata: "grpc.aio.Metadata | None") -> dict[str, str | bytes]:
    return dict(metadata or ())
