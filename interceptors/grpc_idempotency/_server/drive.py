"""Runs a plan of the protocol: the one place where the two kinds of server part."""

from asyncio import CancelledError
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from grpc_idempotency._protocol.effects import Effect, Pause, Plan
from grpc_idempotency.errors import IdempotencyError, StoreUnavailable

T = TypeVar("T")

Perform = Callable[[Effect[Any]], Any]
"""Performs an effect; on asyncio it may answer with an awaitable of the reply."""


def advance(plan: Plan[Any], perform: Perform, effect: Effect[Any]) -> Effect[Any]:
    """Performs one effect, and returns the next one that the plan asks for; an error of ours is the plan's to handle.

    Raises:
        StopIteration: The plan has come to its end, with this value.
    """
    try:
        reply = perform(effect)
    except IdempotencyError as exc:
        return plan.throw(exc)
    return plan.send(reply)


def drive(plan: Plan[T], perform: Perform, effect: Effect[Any] | None = None) -> T:
    """Performs each effect that the plan asks for, from ``effect`` on where it has asked for that one already."""
    try:
        if effect is None:
            effect = next(plan)
        while True:
            effect = advance(plan, perform, effect)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]  # a generator's return value is typed by Plan alone


def drive_streaming(plan: Plan[T], perform: Perform) -> Generator[bytes, None, T]:
    """The same, where performing an effect may be a generator, which yields messages and returns the reply."""
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
    """The same, awaiting what has to be awaited.

    Args:
        plan: What to run.
        perform: Performs an effect.
        cut: Called when the task is cancelled while it awaits a reply; it raises where the plan is to end. Without it
            every cancellation ends the plan. With it the reply is lost, but not the plan: it may look up what became of
            a write, as after any other answer that was lost, and a pause is over early.
        effect: What the plan has asked for already, if it has.
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
    """What stands for an answer of the store that nobody has waited for to its end."""
    return StoreUnavailable("the wait for the store was cancelled before it had answered", landed=None)
