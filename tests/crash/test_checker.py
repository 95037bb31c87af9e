"""The checker, on what processes told of one operation."""

from types import SimpleNamespace
from typing import Any

from crash.checker import Checker
from crash.server import OPAQUE

FIRST, SECOND = "1" * 32, "2" * 32


def event(what: str, t: float, fence: str, **more: Any) -> dict[str, Any]:
    return {"e": what, "t": t, "name": "a", "fence": fence, "method": "/a/B", "attempt": 1, "pid": 1, **more}


def findings(*story: dict[str, Any]) -> list[str]:
    lab: Any = SimpleNamespace(_lease=1.5)
    return list(Checker._story(lab, list(story)))


def late(*more: dict[str, Any]) -> list[str]:
    """What is found where a process was paused as its claim was stored, and tells of it once another is done."""
    return findings(
        event("claim", 12.0, SECOND, asked=11.9, over=FIRST),
        event("run", 12.1, SECOND),
        event("began", 12.11, SECOND, step="own"),
        event("step", 12.12, SECOND, step="own", asked=12.11),
        event("done", 12.2, SECOND, status=0),
        event("claim", 13.0, FIRST, asked=10.0, over=None),
        event("run", 13.1, FIRST),
        event("began", 13.15, FIRST, step="own"),
        event("ran", 13.2, FIRST),
        *more,
    )


def test_a_process_that_comes_back_from_a_pause_is_innocent() -> None:
    """It may run, for it can't know; what it told late happened before."""
    assert late() == []


def test_a_process_that_comes_back_from_a_pause_may_change_nothing() -> None:
    """What it has stored after it was taken over is found."""
    wrong = ["step under a fence that is not the owner's"]
    assert late(event("step", 13.3, FIRST, step="s", asked=13.3)) == wrong
    assert late(event("began", 12.15, SECOND, step="s"), event("step", 13.3, FIRST, step="s", asked=11.8)) == wrong
    assert late(event("step", 13.3, FIRST, step="s", asked=11.8)) == []  # stored before, and so not run again
    assert "completed twice" in late(event("done", 13.3, FIRST, status=0))


def test_a_claim_of_what_is_stored_is_found() -> None:
    """A new claim once an outcome is stored is found, however it is told."""
    story = [
        event("claim", 10.0, FIRST, asked=10.0, over=None),
        event("run", 10.1, FIRST),
        event("done", 10.2, FIRST, status=0),
    ]
    assert findings(*story) == []
    assert findings(*story, event("claim", 13.0, SECOND, asked=13.0, over=FIRST)) == [
        "claimed after its outcome was stored"
    ]
    assert "run under a fence that is not the owner's" in findings(*story, event("run", 13.0, SECOND))


def test_a_retry_beside_a_handler_that_still_runs_is_found() -> None:
    """A released operation must have left its thread; one whose server was killed is never heard of again."""
    story = [
        event("claim", 10.0, FIRST, asked=10.0, over=None),
        event("entered", 10.1, FIRST),
        event("release", 10.2, FIRST),
        event("claim", 10.3, SECOND, asked=10.3, over=None),
        event("entered", 10.4, SECOND),
    ]
    assert findings(*story, event("left", 10.5, FIRST)) == ["run beside a handler that still runs"]
    assert findings(*story, event("left", 10.15, FIRST)) == []
    assert findings(*story) == []


def test_a_handler_that_was_taken_over_may_still_run() -> None:
    """A process that comes back from a pause can't know, and those that came after it are innocent, too."""
    third = "3" * 32
    assert not findings(
        event("claim", 10.0, FIRST, asked=10.0, over=None),
        event("entered", 10.1, FIRST),
        event("claim", 12.0, SECOND, asked=12.0, over=FIRST),
        event("entered", 12.1, SECOND),
        event("left", 12.2, SECOND),
        event("release", 12.3, SECOND),
        event("claim", 12.4, third, asked=12.4, over=None),
        event("entered", 12.5, third),
        event("left", 12.6, FIRST),
        event("left", 12.7, third),
    )


def test_an_opaque_operation_runs_again_only_where_it_was_released() -> None:
    """Its server may die before it tells of the release. A take-over is found, and so is a record that vanishes."""

    def again(*between: dict[str, Any], over: str | None) -> list[str]:
        first = event("claim", 10.0, FIRST, asked=10.0, over=None, method=OPAQUE)
        second = event("claim", 12.0, SECOND, asked=12.0, over=over, method=OPAQUE)
        return findings(first, event("run", 10.1, FIRST), *between, second)

    ran, release = event("ran", 10.2, FIRST), event("release", 10.3, FIRST)
    assert again(ran, release, over=None) == []
    assert again(ran, over=None) == []
    assert again(ran, over=FIRST) == again(over=FIRST) == again(over=None) == ["opaque, and run again"]
