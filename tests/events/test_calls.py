"""Which events a call makes, in which order, by what becomes of it, on every kind of server and of call."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar, Token
from datetime import timedelta
from typing import Any

import grpc
import pytest

from grpc_idempotency import Caller, Code, Disposition, Effects, OutcomeUnknown, Policy, Reason
from grpc_idempotency.events import (
    BatchCommitted,
    CallAnswered,
    Drained,
    Event,
    ExecutionEnded,
    ExecutionStarted,
    RecordsCounted,
    Settled,
    Status,
    StoreCalled,
    Swept,
)
from grpc_idempotency.metrics import status_of

from ..harness.replies import Reply, new_key
from ..harness.servers import Servers, Service
from ..harness.stores import FlakyStore
from ..harness.waiting import Gate, ms, until
from ..matrix.echo import BIDI, CLIENT, SERVER, UNARY, Echo, Play
from .recording import Recorder, line

KINDS_OF_CALLS = (UNARY, SERVER, CLIENT)
CLAIMED, STARTED, ENDED = "Claimed 1", "ExecutionStarted 1", "ExecutionEnded 1 answered"
COMPLETED, EXECUTED = "Settled completed", "CallAnswered executed ok"
FIRST = [CLAIMED, STARTED, ENDED, COMPLETED, EXECUTED]
REPLAYED = "CallAnswered replayed ok"


class Rig:
    """A server whose observer keeps what it hears of calls and operations."""

    def __init__(self, service: Service, shape: str, heard: Recorder) -> None:
        self.service = service
        self.shape = shape
        self.heard = heard
        self.store: FlakyStore = service.store

    async def call(self, play: Play, *texts: str, key: str | None = None, **options: Any) -> Reply:
        """Makes a call, and waits until its answer was told."""
        before = len(self.heard.of(CallAnswered))
        reply: Reply = await self.start(play, *texts, key=key, **options).end()
        await self.heard.answered(before + 1)
        return reply

    def start(self, play: Play, *texts: str, key: str | None = None, **options: Any) -> Any:
        texts = texts or (("a", "b") if self.shape in (CLIENT, BIDI) else ("a",))
        return self.service.start(self.shape, *play.request(*texts), key=key, **options)

    def lines(self) -> list[str]:
        """What was told of the calls and operations, without the ages of replays."""
        kinds = (StoreCalled, BatchCommitted, RecordsCounted, Swept, Drained)
        told = [event for event in self.heard.told if not isinstance(event, kinds)]
        return [line(event).partition(" 0:00:")[0] for event in told]


Start = Callable[..., Awaitable[Rig]]
ANY = Policy()


@pytest.fixture
def start(serve: Servers, heard: Recorder) -> Start:
    """Starts a server; the options are those of the interceptor."""

    async def started(shape: str, policy: Policy = ANY, **options: Any) -> Rig:
        store = FlakyStore(serve.path)
        await store.transaction(lambda db: db.execute("CREATE TABLE IF NOT EXISTS rows (play TEXT)"))
        service = await serve(
            Echo(store).methods(), policy=policy, store=store, attach=False, observers=[heard], **options
        )
        return Rig(service, shape, heard)

    return started


each_call = pytest.mark.parametrize("shape", KINDS_OF_CALLS)


@each_call
async def test_a_first_call_and_its_replay(start: Start, shape: str) -> None:
    """A first call is claimed, runs and is stored before its answer is told; a replay only has an answer."""
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
    """A replay that is not kept in memory is told like one that is."""
    rig, play, key = await start(shape, replay_cache_bytes=0), Play(), new_key()
    await rig.call(play, key=key)
    await rig.call(play, key=key)
    assert rig.lines() == [*FIRST, REPLAYED]


@each_call
async def test_one_that_attaches(start: Start, shape: str) -> None:
    """A duplicate in the same process has waited; its execution is told once."""
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
    """A duplicate of a run in another process has waited, too; it makes no event but its answer."""
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
    """The commit of its transaction writes its record, so it makes no event of a claim (5.1)."""
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
    """How it ends, and what becomes of it, is told by its effects and its policy (4.5, 4.6)."""
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
    """Calls that pass through are not told of."""
    rig, play = await start(shape), Play()
    assert (await rig.start(play).end()).mark is None
    await rig.call(play, key=new_key())
    assert rig.lines() == FIRST


async def test_a_bidirectional_call(start: Start) -> None:
    """A keyed bidirectional call is refused, or by policy passed through untold (4.8)."""
    rig = await start(BIDI)
    await rig.call(Play(), key=new_key(), silent=True)
    assert rig.lines() == ["CallAnswered refused streaming_unsupported unimplemented"]


# Refusals


def told_of(reason: Reason) -> str:
    return f"CallAnswered refused {reason.name.lower()} {reason.status.name.lower()}"


async def key_invalid(rig: Rig) -> None:
    await rig.call(Play(), key='"open', silent=True)


async def key_required(rig: Rig) -> None:
    await rig.call(Play(), silent=True)


async def principal_required(rig: Rig) -> None:
    await rig.call(Play(), key=new_key(), metadata=[("x-user", "")], silent=True)


async def stream_length_required(rig: Rig) -> None:
    await rig.call(Play(), "a", "b", key=new_key(), count=1)


async def stream_truncated(rig: Rig) -> None:
    await rig.call(Play(), "a", "b", key=new_key(), count=3)


async def store_unavailable(rig: Rig) -> None:
    rig.store.down.add("claim")
    await rig.call(Play(), key=new_key())
    rig.store.down.clear()


async def key_reused(rig: Rig) -> None:
    play, key = Play(), new_key()
    await rig.call(play, key=key)
    await rig.call(play, *(("c", "d") if rig.shape == CLIENT else ("c",)), key=key)


async def response_not_retained(rig: Rig) -> None:
    play, key = Play(), new_key()
    for _ in range(2):
        await rig.call(play, *(("x" * 80, "y") if rig.shape == CLIENT else ("x" * 80,)), key=key)


async def in_flight(rig: Rig) -> None:
    play, key = Play(blocks=True), new_key()
    first = rig.start(play, key=key)
    await play.began.wait()
    await rig.call(play, key=key)
    play.go.open()
    await first.end()
    await rig.heard.answered(2)


REFUSALS: dict[Reason, tuple[Callable[[Rig], Any], Policy, list[str]]] = {
    Reason.KEY_INVALID: (key_invalid, Policy(), []),
    Reason.KEY_REQUIRED: (key_required, Policy(required=True), []),
    Reason.PRINCIPAL_REQUIRED: (principal_required, Policy(), []),
    Reason.STREAM_LENGTH_REQUIRED: (stream_length_required, Policy(), []),
    Reason.STREAM_TRUNCATED: (stream_truncated, Policy(), []),
    Reason.STORE_UNAVAILABLE: (store_unavailable, Policy(), []),
    Reason.KEY_REUSED: (key_reused, Policy(), FIRST),
    Reason.RESPONSE_NOT_RETAINED: (response_not_retained, Policy(max_response_bytes=50), FIRST),
    Reason.IN_FLIGHT: (in_flight, Policy(wait=ms(50)), FIRST),
}
"""How each refusal is brought about, and what is told beside it. The other two reasons have tests of their own."""


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (shape, reason)
        for reason in REFUSALS
        for shape in KINDS_OF_CALLS
        if shape == CLIENT or "STREAM" not in reason.name
    ],
)
async def test_refusals(start: Start, shape: str, reason: Reason) -> None:
    """Each refusal is told with its reason and its status (2.3)."""
    act, policy, beside = REFUSALS[reason]
    rig = await start(shape, policy, principal=lambda caller: dict(caller.metadata).get("x-user", "somebody") or None)
    await act(rig)
    assert sorted(rig.lines()) == sorted([*beside, told_of(reason)])


def test_every_reason_is_told() -> None:
    """No reason is without its test here."""
    assert {*REFUSALS, Reason.STREAMING_UNSUPPORTED, Reason.OUTCOME_UNKNOWN} == {*Reason}


@each_call
async def test_a_message_that_can_not_be_read(start: Start, shape: str) -> None:
    """It is refused as gRPC would refuse it, without a reason; its call has a key all the same (2.2)."""
    rig = await start(shape)
    await rig.service.start(shape, b"\xff", key=new_key()).end()
    await rig.heard.answered(1)
    assert rig.lines() == ["CallAnswered refused internal"]


async def test_a_stream_that_is_too_large(start: Start) -> None:
    """It is refused without a reason, too (4.8)."""
    rig = await start(CLIENT, Policy(max_request_bytes=100))
    await rig.call(Play(), "a" * 60, "b" * 60, key=new_key(), silent=True)
    assert rig.lines() == ["CallAnswered refused resource_exhausted"]


@each_call
async def test_one_that_is_held(start: Start, kind: str, shape: str) -> None:
    """An opaque run that is stopped at its limit is held; a thread's own end resolves it (4.5)."""
    rig, play, key = await start(shape, Policy(execution_limit=ms(50))), Play(blocks=True), new_key()
    refused = told_of(Reason.OUTCOME_UNKNOWN)
    for _ in range(2):
        await rig.call(play, key=key)
    lines = rig.lines()
    if kind == "async":
        held = "Held the handler ran past its execution limit and was stopped"
        assert lines == [CLAIMED, STARTED, "ExecutionEnded 1 overran", held, "Settled held", refused, refused]
        return
    held = "Held the handler ran past its execution limit and could not be stopped"
    assert lines == [CLAIMED, STARTED, held, "Settled held", refused, refused]
    play.go.open()
    await rig.heard.has([COMPLETED])
    assert rig.lines()[len(lines) :] == [ENDED, COMPLETED]


@each_call
async def test_unprotected(start: Start, shape: str) -> None:
    """While the store is down, the policy lets a call through: there is a run, and no claim (5.5)."""
    rig, play, key = await start(shape, Policy(unprotected=True)), Play(), new_key()
    rig.store.down.add("claim")
    await rig.call(play, key=key)
    rig.store.down.clear()
    assert rig.lines() == [STARTED, ENDED, "Settled unprotected", "CallAnswered unprotected ok"]


@each_call
async def test_an_outcome_that_can_not_be_stored(start: Start, shape: str) -> None:
    """What a handler did is lost for its callers if the store does not answer until its lease has run out (5.5)."""
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
