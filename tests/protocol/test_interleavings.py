"""Every schedule of two calls with one key (4.1 to 4.5, 5.1), and seeded samples of more.

Each step and each end is held to the promises (``promises.py``): at most one claim is good at a time; an opaque handler
never runs again after a run whose effect nobody can know; at most one transaction commits; all who are answered with an
outcome that is kept are answered with the same; nobody is told of success without the effect, or of a failure over it;
nobody is refused without cause; a zombie changes nothing; everybody is answered; and a later call hears the same, but
one with another request that its key is reused.

Transactional handlers run with a claim, without one (5.1, "One commit"), and with a claim in one of the processes only.
Without a claim they may run in two processes at one time, and whether a key is reused is told once there is a record.
``GRPC_IDEMPOTENCY_CAMPAIGN=1`` plays many more.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from grpc_idempotency.records import Effects

from .promises import Violation
from .scenarios import Behaviour, Claims, Scenario
from .schedules import explore, replay, sample

CAMPAIGN = bool(os.environ.get("GRPC_IDEMPOTENCY_CAMPAIGN"))
WAYS = {
    "opaque": Scenario(effects=Effects.OPAQUE),
    "repeatable": Scenario(effects=Effects.REPEATABLE),
    "transactional": Scenario(effects=Effects.TRANSACTIONAL),
    "transactional without a claim": Scenario(effects=Effects.TRANSACTIONAL, claims=Claims.NONE),
    "transactional with some claims": Scenario(effects=Effects.TRANSACTIONAL, claims=Claims.SOME),
}
UNCLAIMED = "transactional without a claim"
LAYOUTS = {
    "one process": (("A", "p", "x"), ("B", "p", "x")),
    "two processes": (("A", "p", "x"), ("B", "q", "x")),
    "one process, another request": (("A", "p", "x"), ("B", "p", "y")),
    "two processes, another request": (("A", "p", "x"), ("B", "q", "y")),
}
TROUBLES: dict[str, dict[str, Any]] = {
    "none": {},
    "a lease runs out": {"lapses": 1},
    "a process dies": {"crashes": 1},
    "the store fails once": {"faults": 1},
    "a wait is over": {"timeouts": 1},
}
CASES = [
    (way, layout)
    for way in WAYS
    for layout in LAYOUTS
    if WAYS[way].claims is not Claims.SOME or layout.startswith("two processes")  # in one process all claim, or none
]
FEWEST = {
    "none": 400,
    "a lease runs out": 450,
    "a process dies": 600,
    "the store fails once": 1_800,
    "a wait is over": 150,
}
"""Fewer schedules than these would mean that the world has lost a choice somewhere."""


def behaviours(way: str) -> list[Behaviour]:
    """What handlers can do that have such effects."""
    transactional = WAYS[way].effects is Effects.TRANSACTIONAL
    return [behaviour for behaviour in Behaviour if transactional or behaviour is not Behaviour.STEPPING]


def scenarios(way: str, layout: str, trouble: str) -> list[Scenario]:
    return [
        replace(WAYS[way], calls=LAYOUTS[layout], behaviour=behaviour, **TROUBLES[trouble])
        for behaviour in behaviours(way)
        if CAMPAIGN or trouble == "none" or _differs(way, layout, trouble, behaviour)
    ]


def _differs(way: str, layout: str, trouble: str, behaviour: Behaviour) -> bool:
    """Whether these schedules are worth their time on every day: others take nearly the same branches."""
    effects, claimed = WAYS[way].effects, WAYS[way].claims is Claims.ALL
    match behaviour:
        case Behaviour.ABANDONED if claimed:  # it goes on beside all that follows, so that its worlds are very many
            return layout == "one process" and trouble == "a lease runs out"
        case Behaviour.COMMITTING:  # a transactional OK is the same
            return effects is Effects.OPAQUE
        case Behaviour.DOUBTING if claimed:  # it ends as one that was cancelled
            return False
        case Behaviour.RAISING if claimed:  # where it is not opaque, it is released as one that was cancelled
            return effects is Effects.OPAQUE
        case Behaviour.CATCHING | Behaviour.REFUSING | Behaviour.STEPPING:  # with a claim they end as others do
            return not claimed
        case _:
            return True


@pytest.mark.slow
@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize(("way", "layout"), CASES)
def test_every_schedule_of_two_calls_keeps_every_promise(
    way: str, layout: str, trouble: str, record_property: Callable[[str, object], None]
) -> None:
    """Whatever the handler does, and whichever of these troubles comes at whichever moment (4.1 to 4.6, 5.1, 5.5)."""
    explored = [explore(scenario) for scenario in scenarios(way, layout, trouble)]
    assert all(each.ends for each in explored)
    schedules = sum(each.schedules for each in explored)
    assert schedules >= FEWEST[trouble] * (15 if layout == "two processes" else 1)
    record_property("schedules", schedules)


@pytest.mark.parametrize(("way", "layout"), CASES)
def test_every_schedule_of_an_answer_keeps_every_promise(way: str, layout: str) -> None:
    """Two calls whose handler answers, without any trouble: the core of claim and complete (4.1 to 4.3, 5.1)."""
    assert explore(replace(WAYS[way], calls=LAYOUTS[layout])).schedules


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("behaviour", [Behaviour.OK, Behaviour.CATCHING, Behaviour.REFUSING])
def test_a_commit_without_a_claim_may_fail(layout: str, behaviour: Behaviour) -> None:
    """Not done, or done without an answer; told as it is, and never as a failure over an effect (5.1, 5.5)."""
    assert explore(replace(WAYS[UNCLAIMED], calls=LAYOUTS[layout], behaviour=behaviour, faults=1)).schedules


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_client_whose_server_died_gets_its_answer_from_another(way: str) -> None:
    """Both calls are in the process that dies; both clients call another process again (4.5, 4.9)."""
    fewest = 50_000 if WAYS[way].claims is Claims.ALL else 500  # a run without a claim leaves nothing to take over
    assert explore(replace(WAYS[way], crashes=1, retries=True)).schedules > fewest


@pytest.mark.parametrize(
    "way",
    [
        "opaque",
        "transactional",
        "transactional without a claim",
        pytest.param("repeatable", marks=pytest.mark.slow),
        pytest.param("transactional with some claims", marks=pytest.mark.slow),
    ],
)
def test_a_commit_whose_answer_is_lost_is_told_as_it_is(way: str) -> None:
    """Also where the store fails again when it is looked up, and the lease runs out meanwhile (5.1, 5.5)."""
    assert explore(replace(WAYS[way], behaviour=Behaviour.COMMITTING, faults=2, lapses=1)).schedules > 1_000


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_write_without_a_claim_is_not_tried_for_ever(layout: str) -> None:
    """What is answered without a transaction is written as long as a lease would last, or told to nobody (5.5)."""
    refusing = replace(WAYS[UNCLAIMED], behaviour=Behaviour.REFUSING, calls=LAYOUTS[layout], faults=1)
    assert explore(replace(refusing, lapses=1)).schedules > explore(refusing).schedules


@pytest.mark.slow
@pytest.mark.parametrize(("way", "layout"), CASES)
def test_a_renewed_lease_is_not_taken_over(way: str, layout: str) -> None:
    """Leases are renewed while the handler runs, also late, and whoever comes then finds them good (4.9)."""
    behaviour = Behaviour.OK if WAYS[way].claims is Claims.ALL else Behaviour.STEPPING
    renewing = replace(WAYS[way], behaviour=behaviour, calls=LAYOUTS[layout], lapses=1, renewing=True)
    assert explore(renewing).schedules > explore(replace(renewing, renewing=False)).schedules


@pytest.mark.parametrize(("way", "layout"), CASES)
def test_what_was_answered_before_is_answered_again(way: str, layout: str) -> None:
    """A repeat of an earlier call gets its reply even while another request under its key is in the process (2.3)."""
    calls = (*LAYOUTS[layout], ("C", "p", "x"))
    assert explore(replace(WAYS[way], calls=calls, earlier="x")).schedules > 300


RECOVERED = ["transactional", "transactional with some claims"]


@pytest.mark.slow
@pytest.mark.parametrize("way", RECOVERED)
@pytest.mark.parametrize("behaviour", [Behaviour.OK, Behaviour.STEPPING, Behaviour.REFUSING, Behaviour.ABANDONED])
def test_a_slow_owner_may_be_released_by_recovery(way: str, behaviour: Behaviour) -> None:
    """Another server releases a lapsed record while its owner still runs, at whichever moment (4.2, 5.4).

    The owner's transaction is refused, its finished step stays, and whoever waits gets one answer.
    """
    slow = replace(WAYS[way], behaviour=behaviour, calls=LAYOUTS["two processes"], lapses=1, recoveries=1)
    assert explore(slow).schedules > explore(replace(slow, recoveries=0)).schedules


def test_a_slow_owner_alone_may_be_released_by_recovery() -> None:
    """It runs again for its client, renews its lease in time, or has committed first (4.9, 5.4)."""
    alone = replace(WAYS["transactional"], calls=(("A", "p", "x"),), lapses=2, recoveries=2, renewing=True)
    for behaviour in (Behaviour.OK, Behaviour.STEPPING, Behaviour.CATCHING, Behaviour.ABANDONED):
        slow = replace(alone, behaviour=behaviour)
        assert explore(slow).schedules > explore(replace(slow, recoveries=0)).schedules


@pytest.mark.slow
def test_a_dead_owner_is_released_by_recovery() -> None:
    """Its server dies at any moment, and a call in another process comes beside its release (4.5, 5.4)."""
    dies = replace(WAYS["transactional"], calls=LAYOUTS["two processes"], crashes=1, lapses=1, recoveries=1)
    assert explore(dies).schedules > explore(replace(dies, recoveries=0)).schedules


SEEDS = 2_000 if CAMPAIGN else 15
CROWDS = {
    "three calls": (("A", "p", "x"), ("B", "q", "x"), ("C", "q", "x")),
    "four calls": (("A", "p", "x"), ("B", "p", "x"), ("C", "q", "x"), ("D", "r", "x")),
    "four calls of two requests": (("A", "p", "x"), ("B", "p", "y"), ("C", "q", "x"), ("D", "q", "y")),
}


@pytest.mark.parametrize("seeds", [5, pytest.param(SEEDS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("crowd", CROWDS)
def test_samples_of_three_and_four_calls_keep_every_promise(crowd: str, way: str, seeds: int) -> None:
    """With crashes, pauses, retries, renewals and a failing store all at once (4.1 to 4.6, 5.1, 5.5)."""
    for behaviour in behaviours(way):
        scenario = replace(
            WAYS[way],
            behaviour=behaviour,
            calls=CROWDS[crowd],
            crashes=1,
            retries=True,
            lapses=2,
            faults=2,
            timeouts=1,
            recoveries=2,
            renewing=True,
        )
        for seed in range(seeds):
            try:
                sample(scenario, seed)
            except Violation as broken:
                pytest.fail(f"seed {seed}: {broken}")


def test_a_seed_repeats_its_schedule() -> None:
    """So that a failing one can be looked into: the same seed takes the same steps, and the steps lead there again."""
    scenario = replace(WAYS["repeatable"], calls=CROWDS["four calls"], crashes=1, lapses=2, faults=2)
    first, second = sample(scenario, 7), sample(scenario, 7)
    assert first.trace == second.trace
    assert sample(scenario, 8).trace != first.trace
    probed = first.trace.index(("step", "later"))
    assert replay(scenario, first.trace[:probed]).choices() == []
