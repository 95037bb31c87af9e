"""Plays a scenario under every schedule, or under one that a seed chooses."""

import random
from dataclasses import dataclass

import pytest

from .promises import Violation
from .scenarios import Scenario, Step
from .world import World

_LONGEST = 250  # steps; what has not ended by then never will


@dataclass(frozen=True, slots=True)
class Explored:
    schedules: int
    """How many different sequences of steps there are, from the start to the end."""
    worlds: int
    """How many worlds they pass through that can be told apart; each was visited."""
    ends: int
    """How many of these are ends."""


def explore(scenario: Scenario) -> Explored:
    """Plays every schedule. Two that have led to the same world go on as one, and are counted as two."""
    found: dict[tuple[object, ...], int] = {}
    ends = 0

    def visit(world: World) -> int:
        nonlocal ends
        key = world.key()
        if key in found:
            return found[key]
        prefix = list(world.trace)
        steps = world.choices()
        if not steps:
            world.check_end()
            ends += 1
            found[key] = 1
            return 1
        if len(prefix) > _LONGEST:
            raise Violation(f"4.3: it does not come to an end\nin {scenario}\nafter {prefix}")
        total = 0
        for number, step in enumerate(steps):
            here = world if number == 0 else replay(scenario, prefix)
            here.take(step)
            total += visit(here)
        found[key] = total
        return total

    schedules = visit(World(scenario))
    return Explored(schedules, len(found), ends)


def caught(scenario: Scenario, promise: str) -> None:
    """Asserts that some schedule breaks a promise whose text begins so."""
    with pytest.raises(Violation, match=f"^{promise}"):
        explore(scenario)


def replay(scenario: Scenario, steps: list[Step]) -> World:
    """The world that these steps lead to."""
    world = World(scenario)
    for step in steps[len(world.trace) :]:
        world.take(step)
    return world


def sample(scenario: Scenario, seed: int) -> World:
    """Plays the one schedule that this seed chooses, to its end."""
    world = World(scenario)
    chance = random.Random(seed)
    for _ in range(_LONGEST * 4):
        steps = world.choices()
        if not steps:
            world.check_end()
            return world
        world.take(chance.choice(steps))
    raise Violation(f"4.3: it does not come to an end\nin {scenario}\nseed {seed}")
