"""Which events a refused call makes, on every kind of server and of call."""

from collections.abc import Callable
from typing import Any

import pytest

from grpc_idempotency import Policy, Reason

from ..harness.replies import new_key
from ..harness.waiting import ms
from ..matrix.echo import BIDI, CLIENT, Play
from .calls import CLAIMED, COMPLETED, ENDED, FIRST, KINDS_OF_CALLS, STARTED, Rig, Start, each_call, told_of


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
"""How each refusal is caused, and which other events come. The other two reasons have tests of their own."""


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
    """The event of each refusal has its reason and its status (2.3)."""
    act, policy, others = REFUSALS[reason]
    rig = await start(shape, policy, principal=lambda caller: dict(caller.metadata).get("x-user", "somebody") or None)
    await act(rig)
    assert sorted(rig.lines()) == sorted([*others, told_of(reason)])


async def test_a_bidirectional_call(start: Start) -> None:
    """A keyed bidirectional call is refused (4.8)."""
    rig = await start(BIDI)
    await rig.call(Play(), key=new_key(), silent=True)
    assert rig.lines() == ["CallAnswered refused streaming_unsupported unimplemented"]


def test_every_reason_is_told() -> None:
    """Each reason has a test here."""
    assert {*REFUSALS, Reason.STREAMING_UNSUPPORTED, Reason.OUTCOME_UNKNOWN} == {*Reason}


@each_call
async def test_a_message_that_can_not_be_read(start: Start, shape: str) -> None:
    """It is refused as gRPC would refuse it, and the event has no reason. Its call has a key all the same (2.2)."""
    rig = await start(shape)
    await rig.service.start(shape, b"\xff", key=new_key()).end()
    await rig.heard.answered(1)
    assert rig.lines() == ["CallAnswered refused internal"]


async def test_a_stream_that_is_too_large(start: Start) -> None:
    """The event of its refusal has no reason, either (4.8)."""
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
