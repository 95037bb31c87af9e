"""An asynchronous generator made of a coroutine: what it emits, however deep, is what the generator yields.

grpc.aio lets a handler write its stream to the context, but interceptors outside of ours may iterate over what they
wrap, as OpenTelemetry's does, so that the outermost function of a server-stream has to be a generator.
"""

import types
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from functools import partial
from typing import Any


class _Emitted:
    __slots__ = ("message",)

    def __init__(self, message: bytes) -> None:
        self.message = message


@types.coroutine
def emit(message: bytes) -> Generator[Any, Any, None]:
    """Makes this the next message of the generator; for the coroutine that :func:`emissions` runs, in its own task."""
    yield _Emitted(message)


@types.coroutine
def _wait_for(wish: Any) -> Generator[Any, Any, Any]:
    """What the coroutine waits for, its own task waits for."""
    return (yield wish)


async def emissions(work: Coroutine[Any, Any, object]) -> AsyncGenerator[bytes, None]:
    """Runs ``work`` in the task that iterates, and yields what it emits; what is thrown in here is thrown in there."""
    step: Callable[[], Any] = partial(work.send, None)
    try:
        while True:
            try:
                wish = step()
            except StopIteration:
                return
            try:
                if isinstance(wish, _Emitted):
                    yield wish.message
                    step = partial(work.send, None)
                else:
                    step = partial(work.send, await _wait_for(wish))
            except BaseException as exc:
                step = partial(work.throw, exc)
    finally:
        work.close()
