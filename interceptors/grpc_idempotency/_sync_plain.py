"""Handlers of un-keyed calls on threads: as they are, but for the text of their exceptions (2.4, 4.7)."""

import logging
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc

from grpc_idempotency._context import INTERNAL_ERROR
from grpc_idempotency._run import Target

logger = logging.getLogger("grpc_idempotency")


def plain(target: Target) -> Callable[[Any, Any], Any]:
    """The handler's behaviour; what it raises goes to the log and not to the client."""
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


def _answer(error: BaseException, context: grpc.ServicerContext) -> NoReturn:
    """Answers for a handler that raised: whatever it was, the client must not be left to wait for its deadline."""
    if type(error) is Exception and not error.args:
        raise error  # what grpc's own abort raises; and there is no text in it that could leave the server
    logger.error("a handler raised", exc_info=error)
    code: Any = context.code()  # type: ignore[attr-defined]  # experimental, and not in the stubs
    context.abort(code if code and code is not grpc.StatusCode.OK else grpc.StatusCode.UNKNOWN, INTERNAL_ERROR)
