"""Who is refused, why, and when (2.1, 2.3, 3.3, 4.8)."""

import secrets
from datetime import timedelta

import grpc
import pytest
from google.rpc import error_details_pb2

from grpc_idempotency import Reason, State
from grpc_idempotency.records import Renewal

from ..harness.replies import COUNT, KEY, PUSH_BACK, STATUS, STATUS_DETAILS, Reply, refused
from ..harness.waiting import ms
from .echo import Play
from .rig import Cell, no_operation, said

pytestmark = pytest.mark.asyncio(loop_scope="module")
_NO_COUNT = "only a client-stream announces how many messages it has"
client_streams = pytest.mark.left_out(unary=_NO_COUNT, server=_NO_COUNT, bidi=_NO_COUNT)
_ONLY_BIDI = "only a bidirectional call is refused or passed through for its kind"
bidirectional = pytest.mark.left_out(unary=_ONLY_BIDI, server=_ONLY_BIDI, client=_ONLY_BIDI)

BAD_REQUEST, RETRY_INFO = error_details_pb2.BadRequest, error_details_pb2.RetryInfo
INVALID, UNAVAILABLE = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


def info_of(reply: Reply) -> dict[str, str]:
    """Returns the ErrorInfo's metadata; the message tells all of it."""
    info = reply.detail(error_details_pb2.ErrorInfo)
    assert info.domain == "grpc-idempotency"
    metadata = dict(info.metadata)
    for value in metadata.values():
        assert value in reply.details, reply
    return metadata


def readable(reply: Reply, *words: str) -> None:
    """Asserts that the message alone tells a person what happened and what to do."""
    assert reply.details.endswith("."), reply.details
    assert "{" not in reply.details
    for word in words:
        assert word in reply.details, reply.details


def bare(reply: Reply) -> None:
    """Asserts that there is neither BadRequest nor RetryInfo nor push-back."""
    assert (reply.detail(BAD_REQUEST), reply.detail(RETRY_INFO), reply.trailer(PUSH_BACK)) == (None, None, None)


@pytest.mark.any_store
async def test_key_invalid(cell: Cell) -> None:
    """2.1, 2.3 KEY_INVALID: malformed, empty, too long or differing."""
    play = Play()
    for key in ("", "x" * 256, '"open', '" a"'):
        answer = await cell.call(play, key=key, refused=True)
        refused(answer, "KEY_INVALID", INVALID)
        readable(answer, KEY)
        assert set(info_of(answer)) == {"field", "problem"}
        (violation,) = answer.detail(BAD_REQUEST).field_violations
        assert (violation.field, violation.description) == (KEY, answer.details)
        assert [name for name, _ in answer.trailers] == [STATUS, STATUS_DETAILS]
    answer = await cell.call(play, key="one", metadata=[(KEY, "other")], refused=True)
    refused(answer, "KEY_INVALID", INVALID)
    assert play.runs == 0


@pytest.mark.any_store
async def test_key_required(cell: Cell) -> None:
    """2.3 KEY_REQUIRED: the policy asks for a key and none came."""
    play = Play()
    answer = await cell.call(play, variant="required", refused=True)
    refused(answer, "KEY_REQUIRED", INVALID)
    readable(answer, "the same key with each retry")
    assert info_of(answer) == {"field": KEY, "method": cell.method("required")}
    (violation,) = answer.detail(BAD_REQUEST).field_violations
    assert violation.field == KEY
    assert play.runs == 0


@pytest.mark.any_store
async def test_principal_required(cell: Cell) -> None:
    """2.3, 3.1 PRINCIPAL_REQUIRED: no principal, a keyed call fails closed."""
    play = Play()
    answer = await cell.call(play, key=cell.key(), metadata=[("x-user", "nobody")], refused=True)
    refused(answer, "PRINCIPAL_REQUIRED", grpc.StatusCode.UNAUTHENTICATED)
    readable(answer, "Authenticate")
    assert info_of(answer) == {"method": cell.method()}
    bare(answer)
    assert play.runs == 0
    assert (await cell.call(play, metadata=[("x-user", "nobody")])).mark is None


@bidirectional
@pytest.mark.any_store
async def test_streaming_unsupported(cell: Cell) -> None:
    """2.3 STREAMING_UNSUPPORTED: a keyed bidirectional call."""
    play = Play()
    answer = await cell.call(play, key=cell.key(), refused=True)
    refused(answer, "STREAMING_UNSUPPORTED", grpc.StatusCode.UNIMPLEMENTED)
    readable(answer, "bidirectional", "Call it without one")
    assert info_of(answer) == {"method": cell.method()}
    bare(answer)
    assert play.runs == 0


@bidirectional
@pytest.mark.any_store
async def test_passed_through(cell: Cell) -> None:
    """4.8 By policy a bidirectional call passes through as if un-keyed."""
    play, key = Play(), cell.key()
    answers = [await cell.call(play, key=key, variant="through") for _ in range(2)]
    assert [said(answer)[0] for answer in answers] == ["run 1", "run 2"]
    assert [answer.trailers for answer in answers] == [(), ()]


@client_streams
@pytest.mark.any_store
async def test_stream_length_required(cell: Cell) -> None:
    """2.3 STREAM_LENGTH_REQUIRED: no count, or one that was exceeded."""
    play = Play()
    answer = await cell.call(play, "a", "b", key=cell.key(), count=1)
    refused(answer, "STREAM_LENGTH_REQUIRED", INVALID)
    readable(answer, cell.method(), COUNT, "cut off")
    assert set(info_of(answer)) == {"method", "field", "problem"}
    (violation,) = answer.detail(BAD_REQUEST).field_violations
    assert (violation.field, violation.description) == (COUNT, answer.details)
    answer = await cell.call(play, "a", key=cell.key(), count="-1", refused=True)
    refused(answer, "STREAM_LENGTH_REQUIRED", INVALID)
    assert play.runs == 0


@client_streams
@pytest.mark.any_store
async def test_stream_truncated(cell: Cell) -> None:
    """2.3 STREAM_TRUNCATED: fewer came than announced; nothing is executed."""
    play, key = Play(), cell.key()
    answer = await cell.call(play, "a", "b", key=key, count=3)
    refused(answer, "STREAM_TRUNCATED", grpc.StatusCode.CANCELLED)
    readable(answer, "Only 2 of the 3", "nothing was executed", "the same key")
    assert info_of(answer) == {"method": cell.method(), "received": "2", "announced": "3"}
    bare(answer)
    assert play.runs == 0
    assert said(await cell.call(play, "a", "b", "c", key=key)) == ["run 1", "a", "b", "c"]


@client_streams
@pytest.mark.any_store
async def test_a_stream_too_large_to_buffer(cell: Cell) -> None:
    """4.8 More than may be buffered of a client-stream is refused unrun."""
    play = Play()
    answer = await cell.call(play, "a" * 90, "b" * 120, key=cell.key(), variant="stingy")
    assert (answer.status, answer.mark, play.runs) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "refused", 0)


@no_operation
async def test_store_unavailable(cell: Cell) -> None:
    """2.3, 5.5 STORE_UNAVAILABLE: the store can't claim, nothing runs."""
    play, key = Play(), cell.key()
    cell.faults.down.add("claim")
    answer = await cell.call(play, key=key)
    refused(answer, "STORE_UNAVAILABLE", UNAVAILABLE)
    readable(answer, "The handler did not run", "Retry with the same key")
    info_of(answer)
    assert answer.detail(RETRY_INFO).retry_delay.ToTimedelta() > ms(0)
    assert play.runs == 0
    assert (await cell.call(play)).mark is None
    cell.faults.down.clear()
    assert (await cell.call(play, key=key)).mark == "executed"


@no_operation
async def test_unprotected(cell: Cell) -> None:
    """5.5 By policy it goes through instead, marked unprotected."""
    play, key = Play(), cell.key()
    cell.faults.down.add("claim")
    answers = [await cell.call(play, key=key, variant="unprotected") for _ in range(2)]
    assert [(said(answer)[0], answer.mark) for answer in answers] == [
        ("run 1", "unprotected"),
        ("run 2", "unprotected"),
    ]
    cell.faults.down.clear()
    assert (await cell.call(play, key=key, variant="unprotected")).mark == "executed"


@no_operation
async def test_key_reused(cell: Cell) -> None:
    """2.3 KEY_REUSED: the key belongs to another request."""
    play, key = Play(), cell.key()
    assert (await cell.call(play, *cell.texts("a", "b"), key=key)).mark == "executed"
    answer = await cell.call(play, *cell.texts("c", "b"), key=key)
    refused(answer, "KEY_REUSED", PRECONDITION)
    readable(answer, "Use a new key")
    assert info_of(answer) == {"method": cell.method()}
    bare(answer)
    assert play.runs == 1


@client_streams
async def test_key_reused_for_other_frames(cell: Cell) -> None:
    """3.2 The same bytes in other messages are another request."""
    play, key = Play(), cell.key()
    assert (await cell.call(play, "ab", "c", key=key)).mark == "executed"
    refused(await cell.call(play, "a", "bc", key=key), "KEY_REUSED", PRECONDITION)
    refused(await cell.call(play, "ab", key=key), "KEY_REUSED", PRECONDITION)
    assert (await cell.call(play, "ab", "c", key=key)).mark == "replayed"


@no_operation
async def test_key_reused_is_told_at_once(cell: Cell) -> None:
    """2.3 KEY_REUSED is told at once, also while it runs."""
    play, key = Play(blocks=True), cell.key()
    first = cell.start(play, *cell.texts("a", "b"), key=key)
    await play.began.wait()
    refused(await cell.call(play, *cell.texts("c", "b"), key=key), "KEY_REUSED", PRECONDITION)
    play.go.open()
    assert (await first.answer()).mark == "executed"


@no_operation
async def test_outcome_unknown(cell: Cell) -> None:
    """2.3, 4.5 OUTCOME_UNKNOWN: an opaque run past its limit is held."""
    play, key = Play(blocks=True), cell.key()
    refused(await cell.call(play, key=key, variant="limited"), "OUTCOME_UNKNOWN", PRECONDITION)
    answer = await cell.call(play, key=key, variant="limited")
    refused(answer, "OUTCOME_UNKNOWN", PRECONDITION)
    readable(answer, "operator", "it completed", "it never happened", "grpc-idempotency resolve")
    record = await cell.record()
    assert record is not None
    assert record.state is State.HELD
    assert info_of(answer) == {"cause": record.reason, "operation": record.name.hex()}
    bare(answer)
    play.go.open()
    assert play.runs == 1


@no_operation
async def test_an_operator_resolves(cell: Cell) -> None:
    """6.4 An operator resolves what is held, as if it never happened."""
    key = cell.key()
    play, claim = await cell.elsewhere(key, "plain", lease=timedelta(hours=1))
    assert await cell.records.hold(claim.name, claim.fence, "for the test")
    refused(await cell.call(play, key=key), "OUTCOME_UNKNOWN", PRECONDITION)
    assert await cell.records.resolve(claim.name, claim.fence, None, timedelta(hours=1))
    assert (await cell.call(play, key=key)).mark == "executed"


@no_operation
async def test_response_not_retained(cell: Cell) -> None:
    """2.3 RESPONSE_NOT_RETAINED: larger than may be kept; sent once."""
    play, key = Play(), cell.key()
    texts = cell.texts("x" * 50, "y" * 50)
    first = await cell.call(play, *texts, key=key, variant="stingy")
    assert (said(first), first.mark) == (["run 1", *texts], "executed")
    answer = await cell.call(play, *texts, key=key, variant="stingy")
    refused(answer, "RESPONSE_NOT_RETAINED", PRECONDITION)
    readable(answer, "succeeded", "do not repeat it under a new key")
    info = info_of(answer)
    assert info.pop("created")
    assert info == {"status": "OK", "cause": "It succeeded, but its response was larger than may be kept"}
    bare(answer)
    assert play.runs == 1


@no_operation
async def test_in_flight(cell: Cell) -> None:
    """2.3, 4.3 IN_FLIGHT: it runs and the wait is over; with a push-back."""
    play, key = Play(blocks=True), cell.key()
    first = cell.start(play, key=key, variant="patient")
    await play.began.wait()
    answer = await cell.call(play, key=key, variant="patient")
    refused(answer, "IN_FLIGHT", UNAVAILABLE)
    push_back = answer.trailer(PUSH_BACK)
    assert isinstance(push_back, str)
    readable(answer, "still running", f"in {push_back} ms")
    assert info_of(answer) == {"retry_after_ms": push_back}
    assert answer.detail(RETRY_INFO).retry_delay.ToTimedelta() == ms(int(push_back))
    play.go.open()
    assert (await first.answer()).mark == "executed"


@no_operation
async def test_before_its_deadline(cell: Cell) -> None:
    """4.3 A duplicate is refused a margin before its own deadline."""
    play, key = Play(blocks=True), cell.key()
    first = cell.start(play, key=key, variant="early")
    await play.began.wait()
    refused(await cell.call(play, key=key, timeout=1.6, variant="early"), "IN_FLIGHT", UNAVAILABLE)
    play.go.open()
    assert (await first.answer()).mark == "executed"


@no_operation
async def test_two_principals(cell: Cell) -> None:
    """3.3 Two principals with the same key never meet."""
    play, key = Play(), cell.key()
    marks = [(await cell.call(play, key=key, metadata=[("x-user", who)])).mark for who in ("ann", "bob", "ann")]
    assert (marks, play.runs) == (["executed", "executed", "replayed"], 2)


@no_operation
async def test_two_methods(cell: Cell) -> None:
    """3.3 Two methods with the same key never meet."""
    play, key = Play(), cell.key()
    marks = [(await cell.call(play, key=key, variant=variant)).mark for variant in ("plain", "hasty", "plain")]
    assert (marks, play.runs) == (["executed", "executed", "replayed"], 2)


@no_operation
async def test_an_unknown_fence(cell: Cell) -> None:
    """4.2 Under another fence nothing of a record can be changed."""
    play, key = Play(blocks=True), cell.key()
    first = cell.start(play, key=key)
    await play.began.wait()
    record = await cell.record()
    assert record is not None
    other = secrets.token_bytes(16)
    assert await cell.records.renew(record.name, other, ms(1)) is Renewal.LOST
    assert not await cell.records.release(record.name, other)
    assert not await cell.records.hold(record.name, other, "not mine")
    play.go.open()
    assert (await first.answer()).mark == "executed"


async def test_every_reason_is_tested() -> None:
    """No reason is without its test here."""
    tested = {name.removeprefix("test_").upper() for name in globals() if name.startswith("test_")}
    assert {reason.name for reason in Reason} <= tested
