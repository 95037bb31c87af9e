"""The one thread beside a sync server's that does things at their time: renewals, limits, polls (4.9, 4.11)."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from grpc_idempotency import StoreUnavailable
from grpc_idempotency._protocol.effects import Effect, Get, Pause, Plan
from grpc_idempotency._server.sync.keeper import Keeper

SOON = 20.0


class Held:
    """A keeper whose thread is busy until it is let, so that timers come due together."""

    def __init__(self) -> None:
        self.keeper = Keeper("test")
        self._go = threading.Event()
        began = threading.Event()

        def busy() -> None:
            began.set()
            assert self._go.wait(SOON)

        self.keeper.later(0.0, busy)
        assert began.wait(SOON)

    def let(self) -> None:
        self._go.set()

    def settle(self, after: float = 0.0) -> None:
        """Lets it, and waits until all that was due by then is done."""
        done = threading.Event()
        self.keeper.later(after, done.set)
        self.let()
        assert done.wait(SOON)


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.let()
    held.keeper.close()


def test_the_order(held: Held) -> None:
    """Timers are done in the order of their times; those of one time in the order they were given (4.9)."""
    done: list[int] = []
    for number, after in enumerate([0.03, 0.01, 0.02, 0.0]):
        held.keeper.later(after, lambda number=number: done.append(number))  # type: ignore[misc]  # a default
    held.settle(after=0.04)
    assert done == [3, 1, 2, 0]


def test_a_nearer_timer_wakes_it() -> None:
    """A timer that is due before all others does not wait for them (4.9)."""
    keeper, done = Keeper("test"), threading.Event()
    keeper.later(3600, lambda: None)
    keeper.later(0.0, done.set)
    assert done.wait(SOON)
    keeper.close()


def test_what_fails_ends_nothing(held: Held, caplog: pytest.LogCaptureFixture) -> None:
    """Something that fails at its time is logged, and what comes after it is done all the same (4.9)."""

    def broken() -> None:
        raise LookupError("at its time")

    held.keeper.later(0.0, broken)
    held.settle()
    assert "at its time" in caplog.text
    caplog.clear()


def test_closing() -> None:
    """A closed keeper does nothing more, also when it is closed by what it does (8)."""
    keeper, closed, done = Keeper("test"), threading.Event(), list[str]()

    def closing() -> None:
        keeper.close()
        closed.set()

    keeper.later(0.0, closing)
    assert closed.wait(SOON)
    assert keeper._thread is not None
    keeper._thread.join(SOON)
    keeper.later(0.0, lambda: done.append("late"))
    keeper.close()
    assert (done, keeper._thread.is_alive()) == ([], False)


def test_closing_what_never_began() -> None:
    """A keeper that was given nothing to do starts no thread, and can be closed (8)."""
    keeper = Keeper("test")
    keeper.close()
    keeper.later(0.0, lambda: None)
    assert keeper._thread is None


# Plans

NAME = bytes(16)


def asking(seen: list[Any]) -> Plan[str]:
    """A plan that asks three times, with a pause after the first."""
    seen.append((yield Get(NAME)))
    yield Pause(0.0)
    for _ in range(2):
        try:
            seen.append((yield Get(NAME)))
        except StoreUnavailable:
            seen.append("unavailable")
    return "over"


def performer(*replies: Any) -> Callable[[Effect[Any]], Any]:
    left = iter(replies)

    def perform(effect: Effect[Any]) -> Any:
        assert effect == Get(NAME)
        reply = next(left)
        if isinstance(reply, Exception):
            raise reply
        return reply() if callable(reply) else reply

    return perform


def test_a_plan_is_carried(held: Held) -> None:
    """A plan gets its replies, and the store's errors, in turn; then what it came to is told (4.9)."""
    seen: list[Any] = []
    over = threading.Event()
    told: list[str] = []

    def then(result: str) -> None:
        told.append(result)
        over.set()

    held.keeper.carry(asking(seen), performer(1, StoreUnavailable("down"), 3), then)
    held.let()
    assert over.wait(SOON)
    assert (seen, told) == ([1, "unavailable", 3], ["over"])


def test_a_plan_that_pauses_keeps_nobody_waiting(held: Held) -> None:
    """While a plan pauses the thread is free for others (4.9)."""

    def pausing() -> Plan[None]:
        yield Pause(3600)

    held.keeper.carry(pausing(), performer())
    held.settle()
