"""How long the writer waits for further requests: as long as they come, if there are many callers (6.2)."""

from typing import Any

import pytest

from grpc_idempotency.stores._sqlite import writer as writer_module
from grpc_idempotency.stores._sqlite.connection import Settings
from grpc_idempotency.stores._sqlite.writer import Writer


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


def slept(monkeypatch: pytest.MonkeyPatch, arrivals: list[int], answered: int, *, many: bool) -> list[float]:
    """Returns the sleeps of one gathering."""
    time = Time(arrivals)
    monkeypatch.setattr(writer_module, "time", time)
    monkeypatch.setattr(writer_module, "connect", lambda *_: None)
    settings = Settings(synchronous="FULL", patience=0.0, foreign_keys=False, read_only=False)
    writer: Any = Writer("/nowhere", settings)
    writer._inbox.size = lambda: time.waiting
    writer._gather(answered, many=many)
    return time.slept


def test_many_callers_are_waited_for_as_long_as_requests_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step without a further request ends it."""
    assert len(slept(monkeypatch, [3, 2, 5, 0, 9], 8, many=True)) == 4


def test_gathering_ends_although_requests_come_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that waits in the inbox is not kept there."""
    assert sum(slept(monkeypatch, [1] * 1000, 8, many=True)) == pytest.approx(0.01, abs=0.0006)


def test_a_lone_request_is_waited_for_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Low load does not pay for high load; a few callers wait for each other a moment."""
    assert slept(monkeypatch, [], 1, many=False) == []
    assert slept(monkeypatch, [], 4, many=False) == [pytest.approx(4 * 60e-6)]
