"""A method's handler, taken apart."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grpc_idempotency._methods.resolve import Method

if TYPE_CHECKING:
    import grpc


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A method's handler, taken apart."""

    method: Method
    behaviour: Callable[[Any, Any], Any]
    deserialize: Callable[[bytes], Any] | None
    serialize: Callable[[Any], bytes] | None
    request_streams: bool
    response_streams: bool
    awaited: bool
    """Whether ``grpc.aio`` runs it in its loop, and not on a thread: an ``async def``, of a message or a stream."""
    generates: bool
    """Whether it is an asynchronous generator."""

    @classmethod
    def of(cls, handler: "grpc.RpcMethodHandler[Any, Any]", method: Method) -> "Target":
        """The target of whichever of the four kinds the handler is."""
        behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        assert behaviour is not None
        generates = inspect.isasyncgenfunction(behaviour)
        return cls(
            method=method,
            behaviour=behaviour,
            deserialize=handler.request_deserializer,
            serialize=handler.response_serializer,
            request_streams=bool(handler.request_streaming),
            response_streams=bool(handler.response_streaming),
            awaited=generates or inspect.iscoroutinefunction(behaviour),
            generates=generates,
        )

    def write(self, message: Any) -> bytes:
        """A response message as it is sent; what is not bytes then is the handler's mistake."""
        data = self.serialize(message) if self.serialize is not None else message
        if type(data) is not bytes:
            raise not_bytes(self.method, data)
        return data


def not_bytes(method: Method, data: object) -> TypeError:
    """The error of a serializer that makes something else than bytes of a response."""
    return TypeError(f"{method.name}: a response became {type(data).__name__}, not bytes")
