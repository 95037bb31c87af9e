"""Every schedule of two calls with one key (DESIGN 4.1 to 4.5), and seeded samples of more.

Each step and each end is held to the promises (``promises.py``): at most one claim is good at a time; an opaque handler
never runs again after a run whose effect nobody can know; at most one transaction commits; all who are answered with an
outcome that is kept are answered with the same; nobody is refused without cause; a zombie changes nothing; everybody
is answered; and a later call hears the same. ``GRPC_IDEMPOTENCY_CAMPAIGN=1`` plays many more.
"""

import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from grpc_idempotency.records import Effects

from .promises import Violation
from .scenarios import Behaviour, Scenario
from .schedules import explore, replay, sample

CAMPAIGN = bool(os.environ.get("GRPC_IDEMPOTENCY_CAMPAIGN"))
LAYOUTS = {
    "one process": (("A", "p", "x"), ("B", "p", "x")),
    "two processes": (("A", "p", "x"), ("B", "q", "x")),
    "one process, another request": (("A", "p", "x"), ("B", "p", "y")),
    "two processes, another request": (("A", "p", "x"), ("B", "q", "y")),
}
TROUBLES = {
    "none": Scenario(effects=Effects.OPAQUE),
    "a lease runs out": Scenario(effects=Effects.OPAQUE, lapses=1),
    "a process dies": Scenario(effects=Effects.OPAQUE, crashes=1),
    "the store fails once": Scenario(effects=Effects.OPAQUE, faults=1),
    "a wait is over": Scenario(effects=Effects.OPAQUE, timeouts=1),
}
FEWEST = {
    "none": 1_500,
    "a lease runs out": 3_000,
    "a process dies": 2_000,
    "the store fails once": 5_000,
    "a wait is over": 600,
}
"""Fewer schedules than these would mean that the world has lost a choice somewhere."""


def scenarios(layout: str, trouble: str) -> list[Scenario]:
    return [
        replace(TROUBLES[trouble], calls=LAYOUTS[layout], effects=effects, behaviour=behaviour)
        for effects in Effects
        for behaviour in Behaviour
        if CAMPAIGN or trouble == "none" or _differs(layout, trouble, effects, behaviour)
    ]


def _differs(layout: str, trouble: str, effects: Effects, behaviour: Behaviour) -> bool:
    """Whether these schedules are worth their time on every day: others take nearly the same branches."""
    match behaviour:
        case Behaviour.ABANDONED:  # it goes on beside all that follows, so that its worlds are very many
            return layout == "one process" and trouble == "a lease runs out"
        case Behaviour.COMMITTING:  # a transactional OK is the same
            return effects is Effects.OPAQUE
        case Behaviour.RAISING:  # where it is not opaque, it is released as one that was cancelled
            return effects is Effects.OPAQUE
        case _:
            return True


@pytest.mark.slow
@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_schedule_of_two_calls_keeps_every_promise(
    layout: str, trouble: str, record_property: Callable[[str, object], None]
) -> None:
    """Whatever the handler does, and whichever of these troubles comes at whichever moment (4.1 to 4.6, 5.5)."""
    explored = [explore(scenario) for scenario in scenarios(layout, trouble)]
    assert all(each.ends for each in explored)
    schedules = sum(each.schedules for each in explored)
    assert schedules >= FEWEST[trouble] * (20 if layout == "two processes" else 1)
    record_property("schedules", schedules)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_schedule_of_an_answer_keeps_every_promise(layout: str) -> None:
    """Two calls whose handler answers, without any trouble: the core of claim and complete (4.1 to 4.3)."""
    for effects in Effects:
        assert explore(Scenario(effects=effects, calls=LAYOUTS[layout])).schedules


@pytest.mark.slow
@pytest.mark.parametrize("effects", Effects)
def test_a_client_whose_server_died_gets_its_answer_from_another(effects: Effects) -> None:
    """Both calls are in the process that dies; both clients call another process again (4.5, 4.9)."""
    scenario = Scenario(effects=effects, crashes=1, retries=True)
    assert explore(scenario).schedules > 50_000


@pytest.mark.parametrize("effects", Effects)
def test_a_commit_whose_answer_is_lost_is_told_as_it_is(effects: Effects) -> None:
    """Also where the store fails again when it is looked up, and the lease runs out meanwhile (5.1, 5.5)."""
    scenario = Scenario(effects=effects, behaviour=Behaviour.COMMITTING, faults=2, lapses=1)
    assert explore(scenario).schedules > 1_000


@pytest.mark.slow
@pytest.mark.parametrize("effects", Effects)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_renewed_lease_is_not_taken_over(layout: str, effects: Effects) -> None:
    """Leases are renewed while the handler runs, also late, and whoever comes then finds them good (4.9)."""
    renewing = Scenario(effects=effects, calls=LAYOUTS[layout], lapses=1, renewing=True)
    assert explore(renewing).schedules > explore(replace(renewing, renewing=False)).schedules


@pytest.mark.parametrize("effects", Effects)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_was_answered_before_is_answered_again(layout: str, effects: Effects) -> None:
    """A repeat of an earlier call gets its reply even while another request under its key is in the process (2.3)."""
    calls = (*LAYOUTS[layout], ("C", "p", "x"))
    assert explore(Scenario(effects=effects, calls=calls, earlier="x")).schedules > 300


SAMPLES = 20_000 if CAMPAIGN else 150
CROWDS = {
    "three calls": (("A", "p", "x"), ("B", "q", "x"), ("C", "q", "x")),
    "four calls": (("A", "p", "x"), ("B", "p", "x"), ("C", "q", "x"), ("D", "r", "x")),
    "four calls of two requests": (("A", "p", "x"), ("B", "p", "y"), ("C", "q", "x"), ("D", "q", "y")),
}


@pytest.mark.parametrize("effects", Effects)
@pytest.mark.parametrize("crowd", CROWDS)
def test_samples_of_three_and_four_calls_keep_every_promise(crowd: str, effects: Effects) -> None:
    """With crashes, pauses, retries, renewals and a failing store all at once (4.1 to 4.6, 5.5)."""
    for behaviour in Behaviour:
        scenario = Scenario(
            effects=effects,
            behaviour=behaviour,
            calls=CROWDS[crowd],
            crashes=1,
            retries=True,
            lapses=2,
            faults=2,
            timeouts=1,
            renewing=True,
        )
        for seed in range(SAMPLES // len(Behaviour)):
            try:
                sample(scenario, seed)
            except Violation as broken:
                pytest.fail(f"seed {seed}: {broken}")


def test_a_seed_repeats_its_schedule() -> None:
    """So that a failing one can be looked into: the same seed takes the same steps, and the steps lead there again."""
    scenario = Scenario(effects=Effects.REPEATABLE, calls=CROWDS["four calls"], crashes=1, lapses=2, faults=2)
    first, second = sample(scenario, 7), sample(scenario, 7)
    assert first.trace == second.trace
    assert sample(scenario, 8).trace != first.trace
    probed = first.trace.index(("step", "later"))
    assert replay(scenario, first.trace[:probed]).choices() == []
