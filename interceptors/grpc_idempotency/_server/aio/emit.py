"""Makes an asynchronous generator of a coroutine: it yields what the coroutine emits at any depth of calls.

grpc.aio lets a handler write its stream to the context. But interceptors outside of this one may iterate over the
handler that they wrap, as OpenTelemetry's does. So the outermost function of a server-stream has to be a generator.
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
    """Makes ``message`` the next one of the generator.

    For the coroutine that :func:`emissions` runs, in its own task.
    """
    yield _Emitted(message)


@types.coroutine
def _wait_for(wish: Any) -> Generator[Any, Any, Any]:
    """Lets the current task wait for the object that the coroutine waits for."""
    return (yield wish)


async def emissions(work: Coroutine[Any, Any, object]) -> AsyncGenerator[bytes, None]:
    """Runs ``work`` in the task that iterates, and yields what it emits. Exceptions thrown in here are thrown there."""
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
