"""Logs one line per call, outside of all other interceptors: method, status, time, idempotency status, peer."""

import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

logger = logging.getLogger("shop.calls")

if TYPE_CHECKING:
    _Handler = grpc.RpcMethodHandler[Any, Any]
_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


class CallLog(grpc.aio.ServerInterceptor):
    """Logs the shop's calls, and keeps the text of exceptions from leaving the server. It logs no bodies and no keys.

    It goes outside of (before) the idempotency interceptor, so that it sees replays too. The messages of keyed calls
    are bytes there, and it reads none. Health checks and reflection are not logged.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["_Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "_Handler | None":
        """Wraps the handler of a call. grpc calls this."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith("/shop."):
            return handler
        kinds = {
            grpc.unary_unary_rpc_method_handler: handler.unary_unary,
            grpc.unary_stream_rpc_method_handler: handler.unary_stream,
            grpc.stream_unary_rpc_method_handler: handler.stream_unary,
            grpc.stream_stream_rpc_method_handler: handler.stream_stream,
        }
        for make, behaviour in kinds.items():
            if behaviour is not None:
                return make(_logged(behaviour, method), handler.request_deserializer, handler.response_serializer)
        return handler


def _logged(behaviour: Callable[[Any, Any], Any], method: str) -> Callable[[Any, Any], Any]:
    if inspect.isasyncgenfunction(behaviour):

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            async with _Call(method, context) as call:
                async for reply in behaviour(request, call):
                    yield reply

        return stream

    async def single(request: Any, context: Any) -> Any:
        async with _Call(method, context) as call:
            return await behaviour(request, call)

    return single


class _Call:
    """The context of one call. It records the status that is set on it, and logs it at the call's end."""

    def __init__(self, method: str, context: Any) -> None:
        self._context = context
        self._method = method
        self._peer = context.peer()  # now: when a call has ended, its context must not be used
        self._begun = time.perf_counter()
        self._code = 0
        self._trailers: Any = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        self._code = code.value[0]
        self._trailers = trailing_metadata or self._trailers
        await self._context.abort(code, details, trailing_metadata)

    def set_code(self, code: Any) -> None:
        self._code = code.value[0] if isinstance(code, grpc.StatusCode) else code
        self._context.set_code(code)

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        self._trailers = trailing_metadata
        self._context.set_trailing_metadata(trailing_metadata)

    async def __aenter__(self) -> "_Call":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _at: object) -> None:
        if error is None or isinstance(error, grpc.aio.AbortError):
            self._log(_NAMES.get(self._code, str(self._code)))
        elif isinstance(error, Exception):
            self._log("INTERNAL")
            logger.error("%s raised", self._method, exc_info=error)
            await self._context.abort(grpc.StatusCode.INTERNAL, "internal error")
        else:
            self._log("CANCELLED")

    def _log(self, status: str) -> None:
        took = (time.perf_counter() - self._begun) * 1000
        keyed = next((value for name, value in self._trailers if name == "idempotency-status"), "-")
        logger.info("%s %s %.1f ms %s %s", self._method, status, took, keyed, self._peer)
