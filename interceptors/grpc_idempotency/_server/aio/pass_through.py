"""Pass-through of un-keyed calls on asyncio. Only the text of exceptions is kept from the client (2.4, 4.7)."""

import asyncio
import contextvars
import logging
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import grpc.aio

from grpc_idempotency._server.aio.context import code_of, failure_code
from grpc_idempotency._server.context import INTERNAL_ERROR
from grpc_idempotency._server.interceptor import unmet
from grpc_idempotency._server.target import Target
from grpc_idempotency._server.workers import Workers
from grpc_idempotency._wire.codes import GRPC_CODES
from grpc_idempotency.errors import PolicyError
from grpc_idempotency.records import Code

if TYPE_CHECKING:
    _Context = grpc.aio.ServicerContext[Any, Any]

logger = logging.getLogger("grpc_idempotency")


def pass_through(target: Target) -> Callable[[Any, Any], Any]:
    """Returns the handler's behaviour, of the same kind. Exceptions are written to the log, not sent to the client."""
    behaviour = target.behaviour
    if target.generates:
        return _generator(behaviour)
    if target.awaited:
        return _coroutine(behaviour)
    return _thread_generator(behaviour) if target.response_streams else _thread_function(behaviour)


Write = Callable[[bytes], Awaitable[None]]
Unkeyed = Callable[[Any, "_Context", Write], Coroutine[Any, Any, bytes | None]]
"""Answers a call. It takes the request message, the live context, and a function that sends a message of a stream.

It returns the serialized response, unless that is a stream.
"""


def unkeyed(target: Target, workers: Workers) -> Unkeyed:
    """Returns the pass-through for a call whose message could have had a key, and is parsed already.

    The call has come to a stand-in whose messages are bytes, so this serializes the handler's messages. Nothing is
    buffered, and a stream ends with its call. A ``def`` generator gets one of the ``workers`` for itself.
    """
    behaviour = pass_through(target)

    async def coroutine(request: Any, context: "_Context", _write: Write) -> bytes:
        return await _serialized(target, await behaviour(request, context), context)

    async def writing(request: Any, context: "_Context", write: Write) -> None:
        async def write_message(message: Any) -> None:
            await write(await _serialized(target, message, context))

        await behaviour(request, _Writing(context, write_message))

    async def generator(request: Any, context: "_Context", write: Write) -> None:
        async with aclosing(behaviour(request, context)) as messages:
            async for message in messages:
                await write(await _serialized(target, message, context))

    async def on_thread(request: Any, context: "_Context", _write: Write) -> bytes:
        return await _serialized(target, await _in_thread(behaviour, request, _FromThread(context)), context)

    async def generator_on_thread(request: Any, context: "_Context", write: Write) -> None:
        messages = _Stepped(workers, behaviour(request, _FromThread(context)))
        try:
            while (message := await messages.next()) is not messages.end:
                await write(await _serialized(target, message, context))
        finally:
            messages.close()

    if target.generates:
        return generator
    if target.awaited:
        return writing if target.response_streams else coroutine
    return generator_on_thread if target.response_streams else on_thread


async def _serialized(target: Target, message: Any, context: "_Context") -> bytes:
    """Serializes a response. If that fails, the call is aborted without the text of the error."""
    try:
        return target.write(message)
    except Exception as exc:
        logger.exception("a response of %s could not be serialized", target.method.name)
        await context.abort(grpc.StatusCode.INTERNAL, INTERNAL_ERROR)
        raise AssertionError("abort always raises") from exc


def _in_thread(call: Callable[..., Any], *arguments: Any) -> "asyncio.Future[Any]":
    """Runs a call in the loop's executor, with the context variables that outer interceptors have set."""
    here = contextvars.copy_context()
    return asyncio.get_running_loop().run_in_executor(None, lambda: here.run(call, *arguments))


def _coroutine(behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    async def coroutine(request: Any, context: "_Context") -> Any:
        try:
            return await behaviour(request, _Live(context))
        except BaseException as exc:
            await _answer(exc, context)

    return coroutine


def _generator(behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    async def generator(request: Any, context: "_Context") -> AsyncIterator[Any]:
        try:
            async for message in behaviour(request, _Live(context)):
                yield message
        except BaseException as exc:
            await _answer(exc, context)

    return generator


def _thread_function(behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def function(request: Any, context: Any) -> Any:
        live = _LiveOnThread(context)
        try:
            return behaviour(request, live)
        except grpc.aio.AbortError:
            raise
        except BaseException as exc:
            logger.error("a handler raised", exc_info=exc)
            try:
                context.abort(*live.failure())
            finally:
                _end_the_server(exc)

    return function


def _thread_generator(behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def generator(request: Any, context: Any) -> Iterator[Any]:
        live = _LiveOnThread(context)
        try:
            yield from behaviour(request, live)
        except (grpc.aio.AbortError, GeneratorExit):
            raise
        except BaseException as exc:
            logger.error("a handler raised", exc_info=exc)
            _end_the_server(exc)
            # No abort: the loop may still be sending messages of this generator, and then gRPC can't send the status.
            code, details = live.failure()
            context.set_code(code)
            context.set_details(details)

    return generator


def refusing(error: PolicyError) -> Callable[[Any, Any], Any]:
    """Returns the stand-in for a handler of any cardinality whose policy can't be met."""

    async def behaviour(_incoming: Any, context: "_Context") -> NoReturn:
        outcome = unmet(error)
        await context.abort(GRPC_CODES[outcome.status], outcome.details, outcome.trailers)

    return behaviour


class _Live:
    """The live context without aborts with OK, after which grpc.aio would send nothing to the client."""

    __slots__ = ("_context",)

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> Any:
        """Aborts in the live context. Returns an awaitable if the live context does."""
        return self._context.abort(failure_code(code), details, trailing_metadata)


class _LiveOnThread(_Live):
    """The live context on a thread. It has no getters for code and details, so they are kept here as well."""

    __slots__ = ("_set_code", "_set_details")

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._set_code: Any = None
        self._set_details: Any = None

    def set_code(self, code: Any) -> None:
        self._context.set_code(code)
        self._set_code = code

    def set_details(self, details: Any) -> None:
        self._context.set_details(details)
        self._set_details = details

    def failure(self) -> tuple[grpc.StatusCode, str]:
        """Returns the status code and details of the answer if the handler raises now."""
        return _failure(self._set_code, self._set_details)


class _Writing(_Live):
    """The live context of a handler that writes its stream to it."""

    __slots__ = ("_aborted", "_write")

    def __init__(self, context: Any, write: Callable[[Any], Awaitable[None]]) -> None:
        super().__init__(context)
        self._write = write
        self._aborted: BaseException | None = None

    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> None:
        await self._abort(self._context.abort(code, details, trailing_metadata))

    async def abort_with_status(self, status: Any) -> None:
        await self._abort(self._context.abort_with_status(status))

    async def _abort(self, aborting: Awaitable[None]) -> None:
        try:
            await aborting
        except grpc.aio.AbortError as exc:
            self._aborted = exc
            raise

    async def write(self, message: Any) -> None:
        if self._aborted is not None:  # nothing is sent after an abort, even if the handler has caught its exception
            raise self._aborted
        await self._write(message)


class _Stepped:
    """A generator that runs from start to end in one thread, and makes a message only when it is asked for one."""

    end = object()

    def __init__(self, workers: Workers, messages: Iterator[Any]) -> None:
        self._messages: Any = messages
        self._loop = asyncio.get_running_loop()
        self._asked = threading.Semaphore(0)
        self._closed = False
        self._answer: asyncio.Future[Any]
        workers.take().run(partial(contextvars.copy_context().run, self._run))

    async def next(self) -> Any:
        """Returns the next message, or ``end``."""
        self._answer = self._loop.create_future()
        self._asked.release()
        return await self._answer

    def close(self) -> None:
        """Tells the thread to end the generator after its current step."""
        self._closed = True
        self._asked.release()

    def _run(self) -> None:
        try:
            while self._asked.acquire() and not self._closed:
                message, error = self._step()
                self._loop.call_soon_threadsafe(self._settle, message, error)
        except RuntimeError:
            pass  # the loop is closed, and nothing waits for a message any more
        finally:
            self._end()

    def _step(self) -> tuple[Any, BaseException | None]:
        try:
            return next(self._messages, self.end), None
        except BaseException as exc:  # any exception has to be passed on to the call
            return None, exc

    def _end(self) -> None:
        try:
            self._messages.close()
        except BaseException as exc:
            logger.error("a handler raised when its stream was ended", exc_info=exc)

    def _settle(self, message: Any, error: BaseException | None) -> None:
        if self._answer.done():  # the call has ended
            return
        if error is None:
            self._answer.set_result(message)
        else:
            self._answer.set_exception(error)


class _FromThread:
    """The live context of ``grpc.aio`` for a ``def`` handler, like the one that gRPC gives it.

    The peer must not be read from the live context once the call has ended, and a thread can't know when that is. So it
    is read at the beginning.
    """

    def __init__(self, context: "_Context") -> None:
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._metadata = context.invocation_metadata()
        self._peer = context.peer()
        self._peer_identities = context.peer_identities()
        self._peer_identity_key = context.peer_identity_key()
        self._auth_context = context.auth_context()

    def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> None:
        self._wait(self._context.abort(code, details, trailing_metadata))

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        self._wait(self._context.send_initial_metadata(initial_metadata))

    def _wait(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        self._context.set_trailing_metadata(trailing_metadata)

    def set_code(self, code: Any) -> None:
        self._context.set_code(code)

    def set_details(self, details: Any) -> None:
        self._context.set_details(details)

    def set_compression(self, compression: Any) -> None:
        self._context.set_compression(compression)

    def disable_next_message_compression(self) -> None:
        self._context.disable_next_message_compression()

    def add_callback(self, callback: Callable[[], None]) -> None:
        add: Any = self._context.add_done_callback
        self._loop.call_soon_threadsafe(add, lambda _: callback())

    def is_active(self) -> bool:
        return not self._context.done() and not self._context.cancelled()

    def time_remaining(self) -> Any:
        return self._context.time_remaining()

    def invocation_metadata(self) -> Any:
        return self._metadata

    def peer(self) -> str:
        return self._peer

    def peer_identities(self) -> Any:
        return self._peer_identities

    def peer_identity_key(self) -> Any:
        return self._peer_identity_key

    def auth_context(self) -> Any:
        return self._auth_context


async def _answer(error: BaseException, context: "_Context") -> NoReturn:
    """Answers the call of a handler that raised any exception, so that the client need not wait for its deadline."""
    if isinstance(error, grpc.aio.AbortError | GeneratorExit) or _from_outside(error):
        raise error
    if isinstance(error, asyncio.CancelledError):
        logger.error("a handler was cancelled from inside the server")
        await context.abort(grpc.StatusCode.UNAVAILABLE, "The handler was cancelled.")
    logger.error("a handler raised", exc_info=error)
    try:
        await context.abort(*_failure(context.code(), context.details()))
    finally:
        _end_the_server(error)


def _from_outside(error: BaseException) -> bool:
    """True if the error is the cancellation of the call, by its client or its deadline.

    Before Python 3.11 that can't be told from other cancellations, so it is true for all of them.
    """
    if not isinstance(error, asyncio.CancelledError):
        return False
    task = asyncio.current_task()
    return sys.version_info < (3, 11) or task is None or task.cancelling() > 0


def _end_the_server(error: BaseException) -> None:
    """Raises a ``KeyboardInterrupt`` or ``SystemExit`` again, so that it ends the server's loop as usual."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        raise error


def _failure(code: Any, details: str | None) -> tuple[grpc.StatusCode, str]:
    """Returns the status code and details for a handler that raised: those that it has set, as in gRPC.

    Without details the text is a fixed one, and never that of the exception.
    """
    status = code_of(code)
    return GRPC_CODES[Code.UNKNOWN if status is Code.OK else status], details or INTERNAL_ERROR
