"""Pass-through of un-keyed calls on threads. Only the text of exceptions is kept from the client (2.4, 4.7)."""

import logging
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc

from grpc_idempotency._server.context import INTERNAL_ERROR
from grpc_idempotency._server.interceptor import unmet
from grpc_idempotency._server.sync.context import code_of
from grpc_idempotency._server.target import Target
from grpc_idempotency._wire.codes import GRPC_CODES
from grpc_idempotency.errors import PolicyError
from grpc_idempotency.records import Code

logger = logging.getLogger("grpc_idempotency")


def pass_through(target: Target) -> Callable[[Any, Any], Any]:
    """Returns the handler's behaviour. Exceptions are written to the log, not sent to the client."""
    behaviour = target.behaviour

    def function(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return behaviour(request, context)
        except BaseException as exc:
            _answer(exc, context)

    def generator(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            yield from behaviour(request, context)
        except GeneratorExit:
            raise
        except BaseException as exc:
            _answer(exc, context)

    return generator if target.response_streams else function


def unkeyed(target: Target) -> Callable[[Any, Any], Any]:
    """Returns the pass-through for a call whose message could have had a key, and is parsed already.

    It answers with bytes.
    """
    behaviour = pass_through(target)

    def function(request: Any, context: grpc.ServicerContext) -> bytes:
        return _written(target, behaviour(request, context), context)

    def generator(request: Any, context: grpc.ServicerContext) -> Iterator[bytes | None]:
        for message in behaviour(request, context):
            # None is not a message: gRPC ends the stream there.
            yield None if message is None else _written(target, message, context)

    return generator if target.response_streams else function


def _written(target: Target, message: Any, context: grpc.ServicerContext) -> bytes:
    """Serializes a response. If that fails, the call is aborted in the same way as by gRPC's own serialization."""
    try:
        return target.write(message)
    except Exception:
        logger.exception("a response of %s could not be serialized", target.method.name)
        _abort(context, grpc.StatusCode.INTERNAL, "Failed to serialize response!")


def refusing(error: PolicyError) -> Callable[[Any, Any], Any]:
    """Returns the stand-in for a handler of any cardinality whose policy can't be met."""

    def behaviour(_incoming: Any, context: grpc.ServicerContext) -> NoReturn:
        outcome = unmet(error)
        context.set_trailing_metadata(outcome.trailers)
        context.abort(GRPC_CODES[outcome.status], outcome.details)

    return behaviour


def _answer(error: BaseException, context: grpc.ServicerContext) -> NoReturn:
    """Answers the call of a handler that raised any exception, so that the client need not wait for its deadline."""
    said: Any = context  # its getters are experimental, and not in the stubs
    code, details = said.code(), said.details()
    if type(error) is Exception and not error.args and code is not None and details is not None:
        raise error  # this is what grpc's own abort raises, and it has no text that could leave the server
    logger.error("a handler raised", exc_info=error)
    _abort(context, grpc.StatusCode.UNKNOWN, INTERNAL_ERROR)


def _abort(context: grpc.ServicerContext, otherwise: grpc.StatusCode, reason: str) -> NoReturn:
    """Ends the call with the code and details that its handler has set, or else with the given ones."""
    said: Any = context
    code, details = said.code(), said.details()
    context.abort(otherwise if code_of(code) is Code.OK else code, reason if details is None else details)
