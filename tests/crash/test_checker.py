"""The checker, on what processes told of one operation."""

from typing import Any

from crash.ownership import check_operation
from crash.server import OPAQUE

FIRST, SECOND, THIRD = "1" * 32, "2" * 32, "3" * 32


def event(what: str, t: float, fence: str, **more: Any) -> dict[str, Any]:
    usual = {"name": "a", "method": "/a/B", "effects": "repeatable", "claimed": True, "pid": 1}
    return {"e": what, "t": t, "fence": fence, **usual, **more}


def findings(*story: dict[str, Any]) -> list[str]:
    return list(check_operation(1.5, list(story)))


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
        event("release", 10.2, FIRST, lapsed=False),
        event("claim", 10.3, SECOND, asked=10.3, over=None),
        event("entered", 10.4, SECOND),
    ]
    assert findings(*story, event("left", 10.5, FIRST)) == ["run beside a handler that still runs"]
    assert findings(*story, event("left", 10.15, FIRST)) == []
    assert findings(*story) == []


def test_a_handler_that_was_taken_over_may_still_run() -> None:
    """A process that comes back from a pause can't know, and those that came after it are innocent, too."""
    assert not findings(
        event("claim", 10.0, FIRST, asked=10.0, over=None),
        event("entered", 10.1, FIRST),
        event("claim", 12.0, SECOND, asked=12.0, over=FIRST),
        event("entered", 12.1, SECOND),
        event("left", 12.2, SECOND),
        event("release", 12.3, SECOND, lapsed=False),
        event("claim", 12.4, THIRD, asked=12.4, over=None),
        event("entered", 12.5, THIRD),
        event("left", 12.6, FIRST),
        event("left", 12.7, THIRD),
    )


def test_a_handler_that_was_taken_over_may_still_begin() -> None:
    """A process that was paused between its claim and its handler can't know, while a second take-over has to wait."""
    story = [
        event("claim", 10.0, FIRST, asked=10.0, over=None),
        event("run", 10.1, FIRST),
        event("claim", 12.0, SECOND, asked=12.0, over=FIRST),
        event("entered", 12.1, SECOND),
    ]
    assert findings(*story, event("entered", 12.2, FIRST), event("left", 12.4, SECOND)) == []
    third = event("claim", 12.2, THIRD, asked=12.2, over=FIRST), event("entered", 12.3, THIRD)
    assert "run beside a handler that still runs" in findings(*story, *third, event("left", 12.4, SECOND))


def test_an_owner_that_recovery_has_released_can_change_nothing() -> None:
    """It was paused, and does not know of the release: it may begin its handler, but not store anything (4.2, 5.4)."""
    story = [
        event("claim", 10.0, FIRST, asked=10.0, over=None),
        event("release", 14.0, FIRST, lapsed=True),
        event("run", 14.1, FIRST),
        event("claim", 14.2, SECOND, asked=14.2, over=None),
        event("run", 14.3, SECOND),
    ]
    assert findings(*story, event("done", 14.4, SECOND, status=0)) == []
    assert findings(*story, event("done", 14.4, FIRST, status=0)) == ["done under a fence that is not the owner's"]


def test_an_opaque_operation_runs_again_only_where_it_was_released() -> None:
    """Its server may die before it tells of the release. A take-over is found, and so is a record that vanishes."""

    def again(*between: dict[str, Any], over: str | None) -> list[str]:
        first = event("claim", 10.0, FIRST, asked=10.0, over=None, method=OPAQUE)
        second = event("claim", 12.0, SECOND, asked=12.0, over=over, method=OPAQUE)
        return findings(first, event("run", 10.1, FIRST), *between, second)

    ran, release = event("ran", 10.2, FIRST), event("release", 10.3, FIRST, lapsed=False)
    assert again(ran, release, over=None) == []
    assert again(ran, over=None) == []
    assert again(ran, over=FIRST) == again(over=FIRST) == again(over=None) == ["opaque, and run again"]


def unclaimed(what: str, t: float, fence: str, **more: Any) -> dict[str, Any]:
    """An event of a run without a claim."""
    return event(what, t, fence, claimed=False, **more)


def test_runs_without_a_claim_may_meet_and_one_commits() -> None:
    """No record keeps them apart, so two run at once, and one that looked too early runs after the commit."""
    both = [unclaimed("run", 10.0, FIRST, pid=1), unclaimed("run", 10.1, SECOND, pid=2)]
    assert findings(*both, event("done", 10.2, FIRST, status=0), event("refused", 10.3, SECOND)) == []
    assert findings(both[0], event("done", 10.05, FIRST, status=0), both[1]) == []
    assert findings(*both, *(event("done", 10.2, fence, status=0) for fence in (FIRST, SECOND))) == ["completed twice"]


def test_a_step_of_a_run_without_a_claim_is_found() -> None:
    """A step is kept under a record: the operation has to be claimed before it."""
    run, step = unclaimed("run", 10.0, FIRST), event("step", 10.2, FIRST, step="s", asked=10.1)
    claim, done = event("claim", 10.1, FIRST, asked=10.0, over=None), event("done", 10.3, FIRST, status=0)
    assert findings(run, step) == ["step under a fence that is not the owner's"]
    assert findings(run, claim, step, done) == []


def test_a_commit_without_a_claim_over_a_record_is_found() -> None:
    """A record that is there, whatever its lease, stands in its way; one that was released does not."""
    claim, run = event("claim", 10.0, FIRST, asked=10.0, over=None), unclaimed("run", 10.0, SECOND)
    commit = event("done", 13.0, SECOND, status=0)
    over = ["committed over a record that was not its own"]
    ran = event("ran", 11.0, FIRST)
    assert findings(claim, run, commit) == over
    assert findings(claim, run, ran, event("wait", 11.1, FIRST), commit) == over
    assert findings(claim, run, ran, event("release", 11.1, FIRST, lapsed=False), commit) == []
    assert findings(claim, run, ran, commit) == []  # its server was killed before it could tell of the release
    assert findings(run, commit, event("claim", 14.0, FIRST, asked=14.0, over=None)) == [
        "claimed after its outcome was stored"
    ]


def test_handlers_without_a_claim_run_beside_each_other_only_in_two_processes() -> None:
    """Within one process a retry waits until the handler of the call before it has left its thread."""

    def beside(pid: int) -> list[str]:
        return findings(
            unclaimed("run", 10.0, FIRST),
            event("entered", 10.1, FIRST),
            unclaimed("run", 10.2, SECOND, pid=pid),
            event("entered", 10.3, SECOND, pid=pid),
            event("left", 10.4, FIRST),
        )

    assert beside(pid=1) == ["run beside a handler that still runs"]
    assert beside(pid=2) == []


def test_only_a_killed_engine_may_lose_the_claim_of_a_transactional_operation() -> None:
    """Such a claim is not waited for until it is on the disk. The run that has lost it may go on, and keeps nothing."""

    def lost(*falls: float, effects: str = "transactional", then: str = "ran", over: str | None = None) -> list[str]:
        before = [event("claim", 8.0, over, asked=7.99, over=None)] if over == THIRD else []
        story = [
            *before,
            event("claim", 10.0, FIRST, asked=9.99, over=over, effects=effects),
            event("claim", 10.5, SECOND, asked=10.4, over=over, effects=effects),
            event("run", 10.51, SECOND),
            event("run", 10.52, FIRST),
            event(then, 10.6, FIRST, status=0),
        ]
        return list(check_operation(1.5, story, falls))

    ignored = "a lease ignored: claimed 0.99 s before its end"
    assert lost(10.2) == lost(10.2, over=THIRD) == lost(10.2, over="4" * 32) == []
    assert lost(10.2, then="done") == ["done under a fence that is not the owner's"]
    assert ignored in lost()
    assert ignored in lost(over=THIRD)
    assert ignored in lost(10.6)
    assert ignored in lost(10.2, effects="repeatable")


def test_a_lease_counts_until_its_run_has_ended() -> None:
    """From then on the operation may be released at any time, also while the last renewal is answered."""
    claim, renewal = event("claim", 10.0, FIRST, asked=10.0, over=None), event("renew", 10.5, FIRST, asked=10.5)
    other, release = event("claim", 10.6, SECOND, asked=10.6, over=None), event("release", 10.61, FIRST, lapsed=False)
    assert findings(claim, event("ran", 10.4, FIRST), renewal, other, release) == []
    assert findings(claim, renewal, other, release) == ["a lease ignored: claimed 1.40 s before its end"]
