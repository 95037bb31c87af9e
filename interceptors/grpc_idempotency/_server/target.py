"""The handler of a method, with its parts as fields."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grpc_idempotency._methods.resolve import Method

if TYPE_CHECKING:
    import grpc


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The handler of a method, with its parts as fields."""

    method: Method
    behaviour: Callable[[Any, Any], Any]
    """The function behind the method."""
    deserialize: Callable[[bytes], Any] | None
    serialize: Callable[[Any], bytes] | None
    request_streams: bool
    response_streams: bool
    awaited: bool
    """True if it is an ``async def`` function or generator, which ``grpc.aio`` runs in its loop and not on a thread."""
    generates: bool
    """True if it is an asynchronous generator."""

    @classmethod
    def of(cls, handler: "grpc.RpcMethodHandler[Any, Any]", method: Method) -> "Target":
        """Returns the target of a handler of any cardinality."""
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
        """Serializes a response message.

        Raises:
            TypeError: The result is not bytes, which is a mistake of the handler or its serializer.
        """
        data = self.serialize(message) if self.serialize is not None else message
        if type(data) is not bytes:
            raise not_bytes(self.method, data)
        return data


def not_bytes(method: Method, data: object) -> TypeError:
    """Returns the error for a response that was not serialized to bytes."""
    return TypeError(f"{method.name}: a response became {type(data).__name__}, not bytes")
