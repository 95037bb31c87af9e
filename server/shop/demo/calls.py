"""The demo's client: calls by generated stubs, with a key in the metadata, without any code of the library."""

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
    """Returns a new key. A client makes one for each operation."""
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply(Generic[R]):
    """The answer to a call: a message, or a status other than OK."""

    message: R | None = None
    status: str = "OK"
    details: str = ""
    trailers: Mapping[str, str | bytes]

    @property
    def how(self) -> str:
        """The trailer ``idempotency-status``: executed, replayed, attached or refused; empty if none came."""
        return str(self.trailers.get("idempotency-status", ""))

    @property
    def same(self) -> bytes:
        """The parts that must be equal in two replies to one operation."""
        return b"" if self.message is None else self.message.SerializeToString(deterministic=True)

    @property
    def error_info(self) -> error_details_pb2.ErrorInfo:
        """The ``google.rpc.ErrorInfo`` of a refusal; an empty one if none came."""
        info = error_details_pb2.ErrorInfo()
        packed = self.trailers.get("grpc-status-details-bin", b"")
        assert isinstance(packed, bytes)  # like every value under a name that ends with -bin
        for detail in status_pb2.Status.FromString(packed).details:
            detail.Unpack(info)
        return info

    def shown_trailers(self) -> str:
        """Returns the trailers as text for people."""
        texts = [f"{name}: {value}" for name, value in self.trailers.items() if isinstance(value, str)]
        info = self.error_info
        if info.reason:
            texts.append(f"ErrorInfo {{reason: {info.reason}, domain: {info.domain}}}")
        return ", ".join(texts) or "none"


async def send(method: "grpc.aio.UnaryUnaryMultiCallable[M, R]", request: M, key: str) -> Reply[R]:
    """Makes one call, with the key in its metadata."""
    call = method(request, metadata=(("idempotency-key", key),), timeout=_DEADLINE, wait_for_ready=True)
    try:
        message = await call
    except grpc.aio.AioRpcError as error:
        return Reply(
            status=error.code().name, details=error.details() or "", trailers=_mapping(error.trailing_metadata())
        )
    return Reply(message=message, trailers=_mapping(await call.trailing_metadata()))


async def resend(method: "grpc.aio.UnaryUnaryMultiCallable[M, R]", request: M, key: str) -> Reply[R]:
    """Repeats a call until its client gets an answer: it may take a moment until a broken connection is noticed."""
    while True:
        reply = await send(method, request, key)
        if reply.status != "UNAVAILABLE" or reply.trailers:
            return reply


def shown_key(key: str) -> str:
    """Returns the metadata as it is printed."""
    return f"idempotency-key: {short(key)}"


def _mapping(metadata: "grpc.aio.Metadata | None") -> dict[str, str | bytes]:
    return dict(metadata or ())
