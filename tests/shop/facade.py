"""Lets grpc_testing, which knows threads alone, drive a servicer of ``async def`` methods."""

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Iterator
from typing import Any

import grpc
import grpc.aio


class Loop:
    """An event loop on a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, awaitable: Awaitable[Any]) -> Any:
        async def awaited() -> Any:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result(timeout=10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Facade:
    """The servicer with plain methods."""

    def __init__(self, servicer: object, loop: Loop) -> None:
        self._servicer = servicer
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._servicer, name)
        return self._stream(method) if inspect.isasyncgenfunction(method) else self._single(method)

    def _single(self, method: Any) -> Any:
        def call(request: Any, context: grpc.ServicerContext) -> Any:
            if hasattr(request, "__next__"):
                request = _arriving(request)
            try:
                return self._loop.run(method(request, _Context(context)))
            except grpc.aio.AbortError:
                return None

        return call

    def _stream(self, method: Any) -> Any:
        def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            replies = method(request, _Context(context))
            try:
                while True:
                    yield self._loop.run(anext(replies))
            except (StopAsyncIteration, grpc.aio.AbortError):
                return

        return call


async def _arriving(requests: Iterator[Any]) -> Any:
    while True:
        request = await asyncio.to_thread(next, requests, None)
        if request is None:
            return
        yield request


class _Context:
    """As much of the context of ``grpc.aio`` as the shop's servicers use."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context

    def invocation_metadata(self) -> Any:
        return self._context.invocation_metadata()

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        # Not the testing context's own abort: that one forgets the trailers.
        self._context.set_trailing_metadata(trailing_metadata)
        self._context.set_details(details)
        self._context.set_code(code)
        raise grpc.aio.AbortError
