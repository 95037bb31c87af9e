"""Which events a call makes, in which order, by what becomes of it, on every kind of server and of call."""

from contextvars import ContextVar, Token
from datetime import timedelta
from typing import Any

import grpc
import pytest

from grpc_idempotency import Caller, Code, Disposition, Effects, OutcomeUnknown, Policy, Reason
from grpc_idempotency.events import (
    CallAnswered,
    Event,
    ExecutionEnded,
    ExecutionStarted,
    Settled,
    Status,
)
from grpc_idempotency.metrics import status_of

from ..harness.replies import new_key
from ..harness.servers import Servers
from ..harness.waiting import Gate, ms, until
from ..matrix.echo import CLIENT, Echo, Play
from .calls import CLAIMED, COMPLETED, ENDED, EXECUTED, FIRST, REPLAYED, STARTED, Start, each_call, told_of
from .recording import line


@each_call
async def test_a_first_call_and_its_replay(start: Start, shape: str) -> None:
    """A first call has the events of its claim, run, completion and answer; a replay has that of its answer."""
    rig, play, key = await start(shape), Play(), new_key()
    await rig.call(play, key=key)
    assert rig.lines() == FIRST
    await rig.call(play, key=key)
    assert rig.lines() == [*FIRST, REPLAYED]
    first, replay = rig.heard.of(CallAnswered)
    assert isinstance(first, CallAnswered)
    assert isinstance(replay, CallAnswered)
    record = await rig.service.the_record()
    assert {getattr(event, "operation", record.name) for event in rig.heard.told} == {record.name}
    assert {getattr(event, "method", record.method) for event in rig.heard.told} == {record.method}
    assert (first.age, first.waited, replay.waited) == (None, 0.0, 0.0)
    assert replay.age is not None
    assert timedelta(0) <= replay.age < timedelta(minutes=1)
    assert replay.seconds > 0
    (ended,) = rig.heard.of(ExecutionEnded)
    assert isinstance(ended, ExecutionEnded)
    assert 0 <= ended.seconds <= first.seconds


@each_call
async def test_a_replay_from_the_store(start: Start, shape: str) -> None:
    """The event of a replay from the store is that of a replay from memory."""
    rig, play, key = await start(shape, replay_cache_bytes=0), Play(), new_key()
    await rig.call(play, key=key)
    await rig.call(play, key=key)
    assert rig.lines() == [*FIRST, REPLAYED]


@each_call
async def test_one_that_attaches(start: Start, shape: str) -> None:
    """A duplicate in the same process has waited. Both calls have the events of one execution."""
    rig, play, key = await start(shape), Play(blocks=True), new_key()
    first = rig.start(play, key=key)
    await play.began.wait()
    second = rig.start(play, key=key)
    await until(lambda: rig.service.is_followed(2))
    play.go.open()
    assert {(await call.end()).mark for call in (first, second)} == {"executed", "attached"}
    await rig.heard.answered(2)
    assert rig.lines()[:4] == FIRST[:4]
    assert sorted(rig.lines()[4:]) == ["CallAnswered attached ok", EXECUTED]
    answers = {event.status: event for event in rig.heard.of(CallAnswered) if isinstance(event, CallAnswered)}
    assert answers[Status.EXECUTED].waited == 0
    assert 0 < answers[Status.ATTACHED].waited <= answers[Status.ATTACHED].seconds


@each_call
async def test_one_that_waits_for_another_server(start: Start, serve: Servers, shape: str) -> None:
    """A duplicate of a run in another process has waited, too. Its answer is its only event."""
    rig, play, key = await start(shape), Play(blocks=True), new_key()
    other = await serve(Echo(None).methods(), attach=False)
    first = other.start(shape, *play.request("a", "b")[: 2 if shape == CLIENT else 1], key=key)
    await play.began.wait()
    asked = rig.store.asked["standing"]
    second = rig.start(play, key=key)

    async def polled() -> bool:
        return rig.store.asked["standing"] > asked

    await until(polled)
    play.go.open()
    assert (await first.end()).mark == "executed"
    assert (await second.end()).mark == "attached"
    await rig.heard.answered(1)
    assert rig.lines() == ["CallAnswered attached ok"]
    (answer,) = rig.heard.of(CallAnswered)
    assert isinstance(answer, CallAnswered)
    assert answer.waited > 0


@each_call
async def test_a_transactional_run_is_not_claimed(start: Start, shape: str) -> None:
    """The commit of its transaction writes its record, so there is no event of a claim (5.1)."""
    rig, play, key = await start(shape, Policy(effects=Effects.TRANSACTIONAL)), Play(row=True), new_key()
    await rig.call(play, key=key)
    await rig.call(play, key=key)
    assert rig.lines() == [STARTED, ENDED, COMPLETED, EXECUTED, REPLAYED]


async def _aborts(context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "nothing happened")


async def _raises(_context: Any) -> None:
    raise ValueError("for the test")


async def _doubts(_context: Any) -> None:
    raise OutcomeUnknown("the bank did not answer")


@each_call
@pytest.mark.parametrize(
    ("policy", "act", "told"),
    [
        (Policy(), _aborts, [CLAIMED, STARTED, ENDED, "Settled released", "CallAnswered executed unavailable"]),
        (
            Policy(statuses={Code.UNAVAILABLE: Disposition.STORE}),
            _aborts,
            [CLAIMED, STARTED, ENDED, COMPLETED, "CallAnswered executed unavailable"],
        ),
        (
            Policy(),
            _raises,
            [CLAIMED, STARTED, "ExecutionEnded 1 raised", COMPLETED, "CallAnswered executed unknown"],
        ),
        (
            Policy(effects=Effects.REPEATABLE),
            _raises,
            [CLAIMED, STARTED, "ExecutionEnded 1 raised", "Settled released", "CallAnswered executed unknown"],
        ),
        (
            Policy(),
            _doubts,
            [
                *(
                    CLAIMED,
                    STARTED,
                    "ExecutionEnded 1 in_doubt",
                    "Held its handler could not find out: the bank did not answer",
                    "Settled held",
                ),
                "CallAnswered refused outcome_unknown failed_precondition",
            ],
        ),
    ],
    ids=["released", "stored by policy", "raised, opaque", "raised, repeatable", "in doubt"],
)
async def test_answers_of_a_handler(start: Start, shape: str, policy: Policy, act: Any, told: list[str]) -> None:
    """The events say how the handler ended, and what its effects and its policy made of that (4.5, 4.6)."""
    rig = await start(shape, policy)
    await rig.call(Play(act), key=new_key())
    assert rig.lines() == told


@each_call
async def test_a_commit_that_fails(start: Start, shape: str) -> None:
    """A transaction that was not committed leaves nothing (5.1)."""
    rig, play = await start(shape, Policy(effects=Effects.TRANSACTIONAL)), Play(row=True)
    rig.store.down.add("transaction")
    await rig.call(play, key=new_key())
    assert rig.lines() == [
        STARTED,
        "ExecutionEnded 1 rolled_back",
        "Settled released",
        "CallAnswered executed unavailable",
    ]


@each_call
async def test_a_call_without_a_key(start: Start, shape: str) -> None:
    """Calls that pass through make no event."""
    rig, play = await start(shape), Play()
    assert (await rig.start(play).end()).mark is None
    await rig.call(play, key=new_key())
    assert rig.lines() == FIRST


@each_call
async def test_unprotected(start: Start, shape: str) -> None:
    """While the store is down, the policy lets a call through: it has a run, and no claim (5.5)."""
    rig, play, key = await start(shape, Policy(unprotected=True)), Play(), new_key()
    rig.store.down.add("claim")
    await rig.call(play, key=key)
    rig.store.down.clear()
    assert rig.lines() == [STARTED, ENDED, "Settled unprotected", "CallAnswered unprotected ok"]


@each_call
async def test_an_outcome_that_can_not_be_stored(start: Start, shape: str) -> None:
    """An outcome is lost if the store does not answer until the lease has run out (5.5)."""
    rig, play, key = await start(shape, Policy(lease=ms(200), renew_every=ms(50))), Play(), new_key()
    rig.store.down.update({"complete", "renew"})
    await rig.call(play, key=key)
    rig.store.down.clear()
    lines = [one for one in rig.lines() if one != "LeaseLost"]
    assert lines == [CLAIMED, STARTED, ENDED, "Settled lost", told_of(Reason.STORE_UNAVAILABLE)]


@each_call
async def test_a_client_that_goes_away(start: Start, shape: str) -> None:
    """It gets no answer; its operation ends all the same (4.4)."""
    rig, play, key = await start(shape), Play(blocks=True), new_key()
    call = rig.start(play, key=key)
    await play.began.wait()
    call.cancel()
    await rig.heard.answered(1)
    assert rig.lines() == [CLAIMED, STARTED, "CallAnswered cancelled"]
    play.go.open()
    await rig.heard.has([COMPLETED])
    assert rig.lines() == [CLAIMED, STARTED, "CallAnswered cancelled", ENDED, COMPLETED]


async def test_a_client_that_goes_away_before_its_messages(start: Start) -> None:
    """Its call has a key. On grpc.aio the stream looks like one that ended too soon (4.8)."""
    asked = Gate()

    def principal(_caller: Caller) -> str:
        asked.open()
        return "somebody"

    rig = await start(CLIENT, principal=principal)
    call = rig.start(Play(), key=new_key(), silent=True)
    await asked.wait()
    call.cancel()
    await rig.heard.answered(1)
    (answer,) = rig.heard.of(CallAnswered)
    assert isinstance(answer, CallAnswered)
    assert answer.operation is not None
    told = (line(answer), status_of(answer))
    assert told in [("CallAnswered cancelled", "cancelled"), (told_of(Reason.STREAM_TRUNCATED), "refused")]


@each_call
async def test_the_handler_sees_the_observers_context(serve: Servers, shape: str) -> None:
    """A variable that is set when the run starts is seen by the handler, and when the run ends (4.10)."""
    span: ContextVar[str] = ContextVar("span", default="none")
    tokens: list[Token[str]] = []
    seen: list[str] = []

    def spans(event: Event) -> None:
        if isinstance(event, ExecutionStarted):
            tokens.append(span.set("of the run"))
        elif isinstance(event, ExecutionEnded):
            seen.append(span.get())
            span.reset(tokens.pop())
            seen.append(span.get())
        elif isinstance(event, Settled):
            seen.append(span.get())

    async def looks(_context: Any) -> None:
        seen.append(span.get())

    service = await serve(Echo().methods(), observers=[spans])
    play = Play(looks)
    texts = ("a", "b") if shape == CLIENT else ("a",)
    assert (await service.start(shape, *play.request(*texts), key=new_key()).end()).mark == "executed"
    assert seen == ["of the run", "of the run", "none", "none"]
