"""A short setting of ``make misuse``, and whether its judge would see what is broken."""

import logging
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest

from grpc_idempotency import Code, Effects, Outcome, Record, State
from grpc_idempotency.records import Fingerprint

from .campaign import Heard, judge, run
from .grammar import Attempt, Case, Op, case
from .ledger import Ledger


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


# A timeout may cut off a call of the failing store before it has begun.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize("cases", [50, pytest.param(500, marks=pytest.mark.slow)])
def test_handlers_that_misbehave_on_stores_that_fail(cases: int) -> None:
    """Effects at most once where promised, all replies of a key equal, everybody answered, nothing left over."""
    report = run(range(1, cases + 1))
    assert not report.findings, "\n".join(f"{f.promise}: {f.seen}\n  {f.case}" for f in report.findings[:5])
    assert report.runs >= cases
    assert report.faults >= cases / 6


def test_a_seed_makes_its_case_again() -> None:
    """A report names seeds, and a seed is all that it takes."""
    assert [case(seed) for seed in range(50)] == [case(seed) for seed in range(50)]
    assert len({case(seed).program for seed in range(50)}) > 30


STEP = Op("step", ("s", True, True, "fine"))


def a_case(*program: Op, effects: str = "transactional") -> Case:
    ends = program or (Op("transact", ("reply", "fine")),)
    attempts = (Attempt(0.0, 15.0, None),)
    return Case(key="k", how="aio", effects=effects, streams=False, program=ends, attempts=attempts)


def heard(mark: str = "replayed", **said: Any) -> Heard:
    values: dict[str, Any] = {"code": "OK", "details": "", "messages": (b"m",), "trailers": (), "patient": True}
    return Heard(**(values | said), mark=mark)


def record(state: State = State.COMPLETED, status: Code = Code.OK) -> Record:
    now = datetime.now(timezone.utc)
    return Record(
        name=b"n",
        method="/m",
        state=state,
        fence=b"f",
        fingerprint=Fingerprint(raw=b"", canonical=b""),
        effects=Effects.TRANSACTIONAL,
        attempts=1,
        created_at=now,
        outcome=Outcome(status=status, message=b"m") if state is State.COMPLETED else None,
    )


ONCE = {("reply", 1): 2}
DONE = {("step:s", 1): 1}


@pytest.mark.parametrize(
    ("played", "kept", "rows", "answers", "promise"),
    [
        (a_case(), record(), ONCE, [heard("")], "every keyed call is answered"),
        (a_case(), record(), ONCE, [heard(details="secret")], "an exception's text"),
        (a_case(), record(), ONCE, [heard(), heard(messages=(b"other",))], "all replays of a key are equal"),
        (a_case(), record(), ONCE, [heard("executed", messages=(b"x",)), heard()], "the first answer"),
        (a_case(), record(State.WAITING), {}, [heard("refused")], "an operation comes to its end"),
        (a_case(), record(State.RUNNING), {}, [heard("refused")], "an operation comes to its end"),
        (a_case(), None, {}, [heard("executed")], "an operation that was not released"),
        (a_case(), record(), ONCE | {("reply", 2): 2}, [heard()], "at most one transaction"),
        (a_case(), record(), {("reply", 1): 1}, [heard()], "rows are kept together"),
        (a_case(), record(status=Code.NOT_FOUND), ONCE, [heard(code="NOT_FOUND")], "rows and outcome commit together"),
        (a_case(), record(), {}, [heard()], "a reply of a transaction has its rows"),
        (a_case(STEP), record(), {("step:s", 1): 1, ("step:s", 2): 1}, [heard()], "a step is kept once"),
        (a_case(STEP), record(), {("undo:s", 1): 1}, [heard()], "only what was done is undone"),
        (a_case(STEP), None, DONE, [heard("refused")], "never released"),
        (a_case(STEP), record(status=Code.ABORTED), DONE, [heard(code="ABORTED")], "its steps are undone"),
        (a_case(STEP), record(), DONE | {("undo:s", 1): 1}, [heard()], "what succeeds is not undone"),
    ],
)
def test_the_judge_sees_what_is_broken(
    played: Case, kept: Record | None, rows: dict[tuple[str, int], int], answers: list[Heard], promise: str
) -> None:
    """Each promise of the campaign can be broken, and is then told."""
    found = [told for told, _ in judge(played, kept, Counter(rows), answers, Ledger())]
    assert any(promise in told for told in found), found


def test_the_judge_sees_runs() -> None:
    """Two effects of an opaque handler, and two runs at one time, are told."""
    played, ledger = a_case(Op("effect"), Op("reply"), effects="opaque"), Ledger()
    for run_number in (ledger.enter(played), ledger.enter(played)):
        ledger.effect("k", run_number)
    found = [told for told, _ in judge(played, record(), Counter(), [heard()], ledger)]
    assert any("at most once" in told for told in found)
    assert any("at most one execution" in told for told in found)


def test_the_judge_is_content_with_what_is_right() -> None:
    """A reply with its rows, told twice, is no finding."""
    answers = [heard("executed"), heard(), heard("refused", code="UNAVAILABLE")]
    assert list(judge(a_case(), record(), Counter(ONCE), answers, Ledger())) == []
