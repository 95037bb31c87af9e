"""Retries under one idempotency key, for as long as another attempt can help. Needs ``grpc-idempotency[retry]``.

:class:`Retrying` is for functions and calls that block, :class:`AsyncRetrying` for those that are awaited. Both need a
channel with this library's client interceptor, which gives all attempts the same keys.
"""

import functools
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import grpc
import tenacity

from grpc_idempotency import _checks
from grpc_idempotency._client.answers import push_back, refusal_of, retry_info, status_of
from grpc_idempotency._jitter import uniform
from grpc_idempotency._operation.scope import Block
from grpc_idempotency._protocol.refusals import Reason
from grpc_idempotency.errors import PolicyError

P = ParamSpec("P")
T = TypeVar("T")

RETRIED = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
    }
)
"""The statuses that are retried by default: those that can mean that a reply was lost."""

_PASSING = frozenset({Reason.STORE_UNAVAILABLE, Reason.IN_FLIGHT, Reason.STREAM_TRUNCATED})
"""The reasons of refusals that a later attempt may not meet. All other refusals are final, whatever their status."""


class _Retries:
    """How long, how often and after which errors calls are retried.

    Args:
        deadline: How long all attempts together may take, including the delays between them. ``None``: no limit.
        attempts: The most attempts. ``None``: no limit.
        attempt_timeout: How long the calls of one attempt may take. A call's own ``timeout`` applies too.
        backoff: The upper bound of the random delay after the first attempt, if the server names none. It doubles with
            each attempt.
        max_backoff: The largest upper bound.
        codes: The statuses that are retried. Others are retried only if the server asks for it, by RetryInfo or
            push-back.

    Raises:
        PolicyError: An argument has a wrong type or is out of range.
    """

    def __init__(
        self,
        *,
        deadline: timedelta | None = timedelta(seconds=60),
        attempts: int | None = None,
        attempt_timeout: timedelta | None = None,
        backoff: timedelta = timedelta(milliseconds=100),
        max_backoff: timedelta = timedelta(seconds=5),
        codes: Collection[grpc.StatusCode] = RETRIED,
    ) -> None:
        _checks.duration("backoff", backoff, zero=False)
        _checks.duration("max_backoff", max_backoff)
        self._deadline = None if deadline is None else _checks.duration("deadline", deadline, zero=False)
        self._attempts = None if attempts is None else _checks.number("attempts", attempts, least=1)
        self._attempt_timeout = (
            None if attempt_timeout is None else _checks.duration("attempt_timeout", attempt_timeout, zero=False)
        )
        self._codes = _checked_codes(codes)
        self._backoff = tenacity.wait_random_exponential(
            multiplier=backoff.total_seconds(), max=max_backoff.total_seconds()
        )

    def _rules(self) -> dict[str, Any]:
        """Returns the arguments of tenacity's controllers."""
        stops: list[Any] = [tenacity.stop_never]
        if self._deadline is not None:
            stops.append(tenacity.stop_before_delay(self._deadline.total_seconds()))
        if self._attempts is not None:
            stops.append(tenacity.stop_after_attempt(self._attempts))
        return {
            "retry": tenacity.retry_if_exception(self._makes_sense),
            "wait": self._wait,
            "stop": tenacity.stop_any(*stops),
            "reraise": True,
        }

    def _makes_sense(self, error: BaseException) -> bool:
        """Returns whether another attempt could have another result."""
        if not isinstance(error, grpc.RpcError) or not callable(getattr(error, "code", None)):
            return False
        asked = _asked(error)
        if asked is not None and not timedelta(0) <= asked <= _checks.LONGEST:
            return False
        if status_of(error) == "replayed":  # stored: every attempt would get it
            return False
        refusal = refusal_of(error)
        if refusal is not None and refusal.reason not in _PASSING:
            return False
        return asked is not None or error.code() in self._codes

    def _wait(self, state: tenacity.RetryCallState) -> float:
        """Returns the seconds until the next attempt: the delay that the server names, or else the back-off."""
        error = state.outcome.exception() if state.outcome is not None else None
        asked = _asked(error) if error is not None else None
        if asked is None:
            return float(self._backoff(state))
        return asked.total_seconds() * uniform(1.0, 1.1)

    @contextmanager
    def _attempt(self, block: Block, began: float) -> Iterator[None]:
        bounds = []
        if self._deadline is not None:
            bounds.append(began + self._deadline.total_seconds())
        if self._attempt_timeout is not None:
            bounds.append(time.monotonic() + self._attempt_timeout.total_seconds())
        with block.attempt(min(bounds, default=None)).opened() as scope:
            try:
                yield
            except grpc.RpcError as error:
                if self._makes_sense(error):
                    scope.check_repeatable(error)
                raise


class Retrying(_Retries):
    """Retries calls until they succeed, or fail in a way that no retry can change.

    ``retrying.call(stub.CreateOrder, request)`` makes one call. As a decorator it takes a function. Each attempt makes
    all calls of the function again, one after the other, each under the same key as before. Such a function has to read
    the stream of a call to its end. The error of the last attempt is raised.
    """

    def __call__(self, fn: Callable[P, T]) -> Callable[P, T]:
        """Decorates a function so that each call of it is retried.

        Args:
            fn: A plain function.

        Returns:
            The function, retried.

        Raises:
            TypeError: ``fn`` is a coroutine function or a generator function.
        """
        if _is_other_kind(fn) or inspect.iscoroutinefunction(fn):
            raise TypeError("Retrying decorates plain functions. Use AsyncRetrying for async functions.")

        @functools.wraps(fn)
        def retried(*args: P.args, **kwargs: P.kwargs) -> T:
            return self.call(fn, *args, **kwargs)

        return retried

    def call(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls ``fn`` until it succeeds.

        Args:
            fn: A stub's method, or any function.
            *args: The arguments of ``fn``.
            **kwargs: The keyword arguments of ``fn``.

        Returns:
            The result of ``fn``.

        Raises:
            RpcError: The error of the last attempt.
            UnkeyedRetry: The failed call had no key, so it was not retried.
            TypeError: An argument is an iterator, which the first attempt would use up.
        """
        _check_repeatable(args, kwargs)
        began = time.monotonic()
        with Block() as block:

            def once() -> T:
                with self._attempt(block, began):
                    return fn(*args, **kwargs)

            return tenacity.Retrying(**self._rules())(once)


class AsyncRetrying(_Retries):
    """Retries awaited calls as :class:`Retrying` does: ``await retrying.call(stub.CreateOrder, request)``."""

    def __call__(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """Decorates a function, whose result is awaited, so that each call of it is retried.

        Args:
            fn: An ``async def`` function, or another one whose result is awaited.

        Returns:
            The function, retried.

        Raises:
            TypeError: ``fn`` is a generator function.
        """
        if _is_other_kind(fn):
            raise TypeError("AsyncRetrying decorates functions whose result is awaited. Generators can't be retried.")

        @functools.wraps(fn)
        async def retried(*args: P.args, **kwargs: P.kwargs) -> T:
            return await self.call(fn, *args, **kwargs)

        return retried

    async def call(self, fn: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Awaits ``fn`` until it succeeds.

        Args:
            fn: A stub's method, or any function whose result is awaited.
            *args: The arguments of ``fn``.
            **kwargs: The keyword arguments of ``fn``.

        Returns:
            The result of ``fn``.

        Raises:
            RpcError: The error of the last attempt.
            UnkeyedRetry: The failed call had no key, so it was not retried.
            TypeError: An argument is an iterator, which the first attempt would use up.
        """
        _check_repeatable(args, kwargs)
        began = time.monotonic()
        with Block() as block:

            async def once() -> T:
                with self._attempt(block, began):
                    return await fn(*args, **kwargs)

            return await tenacity.AsyncRetrying(**self._rules())(once)


def _checked_codes(codes: Any) -> frozenset[grpc.StatusCode]:
    if not isinstance(codes, Collection) or not all(isinstance(code, grpc.StatusCode) for code in codes):
        raise PolicyError("codes must be a collection of grpc.StatusCode.")
    return frozenset(codes)


def _asked(error: BaseException) -> timedelta | None:
    """Returns the delay after which the server wants the call again; negative if it does not want it again."""
    pushed = push_back(error)
    return pushed if pushed is not None else retry_info(error)


def _is_other_kind(fn: Callable[..., Any]) -> bool:
    return inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn)


def _check_repeatable(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, Iterator | AsyncIterator):
            raise TypeError("Pass a list of messages, or of metadata: the first attempt would use an iterator up.")
