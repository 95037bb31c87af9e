"""What a misbehaving handler is composed of. A program is plain data, so that a seed makes it and a report shows it."""

import random
from dataclasses import dataclass
from typing import Any, NamedTuple

HOWS = ("aio", "def on aio", "sync")
"""An ``async def`` handler on grpc.aio, a ``def`` handler on grpc.aio, one on grpc.server."""
EFFECTS = ("opaque", "transactional", "repeatable")
BREAKERS = ("conflict", "trigger", "full")
"""Statements on which SQLite rolls back the whole transaction."""
PERMANENT = ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "OUT_OF_RANGE")
PASSING = ("UNAVAILABLE", "ABORTED", "RESOURCE_EXHAUSTED")
UNCLEAR = ("UNKNOWN", "INTERNAL", "DEADLINE_EXCEEDED", "CANCELLED")
RAISED = (
    "ValueError",
    "KeyError",
    "StopIteration",
    "StopAsyncIteration",
    "GeneratorExit",
    "CancelledError",
    "TimeoutError",
    "BaseException",
    "AssertionError",
    "bare Exception",
    "OutcomeUnknown",
    "from OutcomeUnknown",
)
ODD_METADATA = (
    "list",
    "dict",
    "none",
    "int",
    "surrogate",
    "upper case",
    "empty name",
    "newline",
    "non-ascii",
    "str bin",
)


class Op(NamedTuple):
    """One thing that a handler does."""

    what: str
    arguments: tuple[Any, ...] = ()
    swallow: str = ""
    """What it swallows of what this raises: nothing, ``Exception`` or ``BaseException``."""


class Attempt(NamedTuple):
    """One call of the client."""

    after: float
    """Seconds after the first one's beginning."""
    timeout: float
    cancel: float | None
    """After how many seconds its client goes away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One operation: how its handler misbehaves, and how its client calls."""

    key: str
    how: str
    effects: str
    streams: bool
    program: tuple[Op, ...]
    attempts: tuple[Attempt, ...]

    @property
    def method(self) -> str:
        """The full name of the method that plays it."""
        return f"/misuse.Misuse/{self.how.replace(' ', '')}_{self.effects}_{'stream' if self.streams else 'unary'}"

    def has(self, *what: str) -> bool:
        """Returns whether the program does any of these, at any depth."""
        return any(op.what in what for op in flat(self.program))


LONG = 15.0
"""Seconds in which every call is answered: far more than any limit of the servers."""


def flat(program: tuple[Op, ...]) -> list[Op]:
    """Returns the operations of a program, those within others included."""
    found = []
    for op in program:
        found.append(op)
        for argument in op.arguments:
            if isinstance(argument, tuple) and argument and isinstance(argument[0], Op):
                found += flat(argument)
    return found


def case(seed: int) -> Case:
    """Returns the case of a seed: always the same."""
    rnd = random.Random(seed)
    how, effects, streams = rnd.choice(HOWS), rnd.choice(EFFECTS), rnd.random() < 0.3
    maker = _Maker(rnd, effects, streams)
    return Case(
        key=f"case-{seed}",
        how=how,
        effects=effects,
        streams=streams,
        program=maker.program(),
        attempts=_attempts(rnd),
    )


def _attempts(rnd: random.Random) -> tuple[Attempt, ...]:
    attempts = []
    for number in range(rnd.choice((1, 1, 2, 3))):
        gone = rnd.random() < 0.25
        attempts.append(
            Attempt(
                after=0.0 if not number else rnd.choice((0.0, 0.01, 0.05, 0.2)),
                timeout=rnd.choice((0.05, 0.2, LONG)) if gone else LONG,
                cancel=rnd.choice((0.0, 0.01, 0.05)) if gone and rnd.random() < 0.5 else None,
            )
        )
    return tuple(attempts)


class _Maker:
    """Composes the program of one handler."""

    def __init__(self, rnd: random.Random, effects: str, streams: bool) -> None:
        self._rnd = rnd
        self._effects = effects
        self._streams = streams
        self._steps = 0

    def program(self) -> tuple[Op, ...]:
        ops = [self._op() for _ in range(self._rnd.randint(0, 4))]
        return (*ops, self._end())

    def _op(self) -> Op:
        rnd = self._rnd
        makers = [
            lambda: Op("effect"),
            lambda: Op("sleep", (rnd.choice((0.0, 0.005, 0.03)),)),
            lambda: Op("block", (rnd.choice((0.005, 0.03)),)),
            lambda: Op("read", (), self._swallow()),
            lambda: Op("metadata", (rnd.choice(ODD_METADATA),), self._swallow()),
            lambda: Op("details", (rnd.choice(("none", "int", "surrogate", "newline", "fine")),), self._swallow()),
            lambda: Op("code", (rnd.choice(("none", "text", *UNCLEAR, "NOT_FOUND")),), self._swallow()),
            lambda: Op("raise", (rnd.choice(RAISED),), self._swallow(often=True)),
            lambda: Op("abort", (rnd.choice((*PERMANENT, *UNCLEAR)),), self._swallow(often=True)),
            lambda: Op("spawn task", (self._background(),)),
            lambda: Op("spawn thread", (self._background(),)),
            lambda: Op("timeout", (rnd.choice((0.001, 0.01, 0.05)), self._inner()), self._swallow(often=True)),
            lambda: Op("cancel self", (), self._swallow(often=True)),
            lambda: Op("ignore cancellation", (rnd.choice((0.1, 0.6)),)),
            lambda: Op("overrun", (rnd.choice((0.5, 0.9)),), self._swallow()),
            lambda: Op("nested", (), self._swallow(often=True)),
        ]
        if self._effects == "repeatable":
            makers += [self._step] * 8 + [
                lambda: Op("gather", (tuple(self._step() for _ in range(2)),), self._swallow())
            ]
        if self._streams:
            makers += [lambda: Op("emit")] * 4
        return rnd.choice(makers)()

    def _step(self) -> Op:
        rnd = self._rnd
        self._steps += 1
        within = rnd.choice(("fine", "fine", "fine", "raises", "sleeps", "unencodable"))
        arguments = (f"s{self._steps}", rnd.random() < 0.6, rnd.random() < 0.7, within)
        return Op("step", arguments, self._swallow())

    def _inner(self) -> tuple[Op, ...]:
        rnd = self._rnd
        inner = [lambda: Op("sleep", (0.1,)), lambda: Op("read"), lambda: Op("effect")]
        if self._effects == "repeatable":
            inner += [self._step] * 3
        return (rnd.choice(inner)(),)

    def _background(self) -> tuple[Op, ...]:
        rnd = self._rnd
        pause = Op("sleep", (rnd.choice((0.0, 0.01, 0.1)),))
        return (pause, rnd.choice((Op("transact", ("background", "fine")), Op("read"), Op("sleep", (0.05,)))))

    def _swallow(self, *, often: bool = False) -> str:
        return self._rnd.choices(("", "Exception", "BaseException"), (1, 2, 1) if often else (6, 2, 1))[0]

    def _end(self) -> Op:
        rnd = self._rnd
        ends = [
            lambda: Op("transact", ("reply", rnd.choice(("fine", "fine", "fine", "raises", "returns None", "base")))),
            lambda: Op("transact", ("reply", rnd.choice(BREAKERS))),
            lambda: Op("transact in timeout", (rnd.choice((0.0005, 0.005, 5.0)),), self._swallow()),
            lambda: Op("transact twice"),
            lambda: Op("reply"),
            lambda: Op("reply"),
            lambda: Op("reply none"),
            lambda: Op("reply odd"),
            lambda: Op("abort", (rnd.choice((*PERMANENT, *UNCLEAR)),)),
            lambda: Op("raise", (rnd.choice(RAISED),)),
            lambda: Op("cancel self"),
        ]
        if self._effects != "opaque":
            ends.append(lambda: Op("abort", (rnd.choice(PASSING),)))
        return rnd.choice(ends)()
