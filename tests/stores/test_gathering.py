"""How long an engine's thread waits for further requests: as long as they come, if there are many callers (6.2)."""

import pytest

from grpc_idempotency.stores._calls import requests
from grpc_idempotency.stores._calls.requests import Gathering


class Time:
    """Passes while somebody sleeps. In each sleep, requests come as planned."""

    def __init__(self, arrivals: list[int]) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self.arrivals = arrivals
        self.waiting = 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)
        self.waiting += self.arrivals.pop(0) if self.arrivals else 0


def slept(
    monkeypatch: pytest.MonkeyPatch, arrivals: list[int], *groups: int, more: int = 0, crowded: bool = False
) -> list[float]:
    """Returns the sleeps after groups of so many requests, when so many more had come, but none waits."""
    time = Time(arrivals)
    monkeypatch.setattr(requests, "time", time)
    gathering = Gathering(lambda: time.waiting, lambda: crowded)
    for answered in groups:
        gathering.wait(answered, answered + more)
    return time.slept


def test_many_callers_are_waited_for_as_long_as_requests_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step without a further request ends it."""
    assert len(slept(monkeypatch, [3, 2, 5, 0, 9], 16)) == 4


def test_nobody_is_waited_for_when_all_have_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many requests as there were together of late: those that were answered, and those that came meanwhile."""
    assert len(slept(monkeypatch, [3, 2, 5, 9], 8)) == 3
    assert len(slept(monkeypatch, [3, 2, 5, 9], 8, more=4)) == 4


def test_gathering_ends_although_requests_come_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that waits in the queue is not kept there."""
    assert sum(slept(monkeypatch, [1] * 1000, 64)) == pytest.approx(0.01, abs=0.0006)


def test_a_lone_request_is_waited_for_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Low load does not pay for high load; a few callers wait for each other a moment."""
    assert slept(monkeypatch, [], *[1] * 63) == []
    assert slept(monkeypatch, [], 4) == [pytest.approx(4 * 60e-6)]


def test_callers_that_come_one_by_one_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many callers may be there although each group is one request: every 64th group gathers."""
    assert len(slept(monkeypatch, [2, 1, 0], *[1] * 64)) == 3


def test_requests_come_together_while_transactions_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would only wait for a connection. So each step is waited for until there are eight, also an empty one."""
    assert len(slept(monkeypatch, [1, 0, 2, 0, 5, 1], 1, crowded=True)) == 5
    assert sum(slept(monkeypatch, [], 1, crowded=True)) == pytest.approx(0.01, abs=0.0006)
