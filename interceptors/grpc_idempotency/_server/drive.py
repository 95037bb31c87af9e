"""The drivers, which run the plans of the protocol: one calls, one yields messages, one awaits."""

from asyncio import CancelledError
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from grpc_idempotency._protocol.effects import Effect, Pause, Plan
from grpc_idempotency.errors import IdempotencyError, StoreUnavailable

T = TypeVar("T")

Perform = Callable[[Effect[Any]], Any]
"""Performs an effect and returns the reply; on asyncio it may return an awaitable of the reply."""


def advance(plan: Plan[Any], perform: Perform, effect: Effect[Any]) -> Effect[Any]:
    """Performs one effect, and returns the next one of the plan. The plan handles this library's own errors.

    Raises:
        StopIteration: The plan has ended, with this value.
    """
    try:
        reply = perform(effect)
    except IdempotencyError as exc:
        return plan.throw(exc)
    return plan.send(reply)


def drive(plan: Plan[T], perform: Perform, effect: Effect[Any] | None = None) -> T:
    """Runs a plan to its end with calls.

    Args:
        plan: The plan.
        perform: Performs an effect.
        effect: The effect that the plan has yielded already, if it has.

    Returns:
        The plan's result.
    """
    try:
        if effect is None:
            effect = next(plan)
        while True:
            effect = advance(plan, perform, effect)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]  # a generator's return value is typed by Plan alone


def drive_streaming(plan: Plan[T], perform: Perform) -> Generator[bytes, None, T]:
    """Runs a plan like :func:`drive`, and yields messages.

    ``perform`` may return a generator, which yields messages and returns the reply.
    """
    try:
        effect = next(plan)
        while True:
            try:
                reply = perform(effect)
                if isinstance(reply, Generator):
                    reply = yield from reply
            except IdempotencyError as exc:
                effect = plan.throw(exc)
            else:
                effect = plan.send(reply)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]  # a generator's return value is typed by Plan alone


async def drive_async(
    plan: Plan[T],
    perform: Perform,
    cut: Callable[[], object] | None = None,
    effect: Effect[Any] | None = None,
) -> T:
    """Runs a plan like :func:`drive`, and awaits replies that are awaitables.

    Args:
        plan: The plan.
        perform: Performs an effect.
        cut: Called when the task is cancelled while it awaits a reply. It raises if the plan must end. Otherwise the
            plan goes on: a pause ends early, and any other reply counts as lost, so that the plan may look whether a
            write landed. Without ``cut`` every cancellation ends the plan.
        effect: The effect that the plan has yielded already, if it has.

    Returns:
        The plan's result.
    """
    try:
        if effect is None:
            effect = next(plan)
        while True:
            try:
                reply = perform(effect)
                if hasattr(reply, "__await__"):
                    reply = await reply
            except IdempotencyError as exc:
                effect = plan.throw(exc)
            except CancelledError:
                if cut is None:
                    raise
                cut()
                effect = plan.send(None) if isinstance(effect, Pause) else plan.throw(lost())
            else:
                effect = plan.send(reply)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]  # a generator's return value is typed by Plan alone


def lost() -> StoreUnavailable:
    """Returns the error that stands for an answer of the store whose wait was cancelled."""
    return StoreUnavailable("the wait for the store was cancelled before it had answered", landed=None)
