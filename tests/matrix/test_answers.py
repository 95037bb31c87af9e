"""What a keyed call's answer carries, and how exact a replay is (2.2, 2.4, 4.1, 4.7, 4.11)."""

import asyncio
import contextlib
from datetime import timezone
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from ..harness.replies import CREATED, STATUS, STATUS_DETAILS, Reply
from .echo import Play
from .rig import Cell, no_operation, said

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRAILERS = (("x-a", "1"), ("x-a", "2"), ("x-b-bin", b"\x00\xff\x00"))


@no_operation
async def test_executed_and_replayed(cell: Cell) -> None:
    """2.2 First executed, then replayed, with the time it was stored."""
    play, key = Play(), cell.key()
    first, second, third = [await cell.call(play, key=key) for _ in range(3)]
    assert said(first) == ["run 1", *cell.texts("a", "b")]
    assert first.trailers == ((STATUS, "executed"),)
    assert [name for name, _ in second.trailers] == [STATUS, CREATED]
    assert second.mark == "replayed"
    record = await cell.record()
    assert record is not None
    assert record.completed_at is not None
    stored_at = record.completed_at.astimezone(timezone.utc).isoformat(timespec="milliseconds")
    assert second.trailer(CREATED) == stored_at.replace("+00:00", "Z")
    assert second.plain == first.plain
    assert (third, play.runs) == (second, 1)


@no_operation
async def test_failures_are_marked(cell: Cell) -> None:
    """2.2 An answer that is a failure is marked too."""

    async def missing(context: Any) -> None:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")

    play, key = Play(missing), cell.key()
    first, second = [await cell.call(play, key=key) for _ in range(2)]
    assert (first.status, first.trailers) == (grpc.StatusCode.NOT_FOUND, ((STATUS, "executed"),))
    assert (second.mark, second.plain, play.runs) == ("replayed", first.plain, 1)


@no_operation
@pytest.mark.any_store
async def test_nothing_in_initial_metadata(cell: Cell) -> None:
    """2.2 Nothing is ever added to initial metadata."""
    play, key = Play(), cell.key()
    bare, first, second = await cell.call(play), await cell.call(play, key=key), await cell.call(play, key=key)
    assert first.initial == bare.initial
    assert second.initial == bare.initial


@no_operation
@pytest.mark.any_store
async def test_initial_metadata_is_the_first_calls(cell: Cell) -> None:
    """4.7 Initial metadata that the handler sends is the first call's alone."""

    async def ahead(context: Any) -> None:
        await context.send_initial_metadata((("x-ahead", "1"),))

    play, key = Play(ahead), cell.key()
    first, second = [await cell.call(play, key=key) for _ in range(2)]
    assert ("x-ahead", "1") in first.initial
    assert ("x-ahead", "1") not in second.initial
    assert second.plain == first.plain


@pytest.mark.any_store
async def test_an_unkeyed_call_is_untouched(cell: Cell) -> None:
    """2.4 Without a key the handler runs as if the interceptor were not there."""
    play = Play()
    claims = len(cell.faults.claims)
    answers = [await cell.call(play) for _ in range(2)]
    assert [said(answer)[0] for answer in answers] == ["run 1", "run 2"]
    assert [answer.trailers for answer in answers] == [(), ()]
    assert play.contexts == ["grpc._server" if cell.column.kind == "sync" else "grpc._cython.cygrpc"] * 2
    assert len(cell.faults.claims) == claims


@no_operation
async def test_concurrent_duplicates_attach(cell: Cell) -> None:
    """4.1, 4.3 Concurrent duplicates are one execution: the others attach."""
    play, key = Play(blocks=True, early=True), cell.key()
    first = cell.start(play, key=key)
    await play.began.wait()
    others = [cell.start(play, key=key) for _ in range(3)]
    await cell.is_followed(4)
    if cell.streams:
        await asyncio.gather(*(call.first.wait() for call in others))  # the part already sent comes at once
    play.go.open()
    answers = [await call.answer() for call in (first, *others)]
    assert [answer.mark for answer in answers] == ["executed", "attached", "attached", "attached"]
    assert all(answer.plain == answers[0].plain for answer in answers)
    assert said(answers[0]) == [*(["early"] if cell.streams else []), "run 1", *cell.texts("a", "b")]
    assert play.runs == 1


async def exact(cell: Cell, play: Play) -> Reply:
    """Checks that the first keyed answer equals the un-keyed one, and its replay the first. Returns the replay."""
    key = cell.key()
    bare, first, second = await cell.call(play), await cell.call(play, key=key), await cell.call(play, key=key)
    assert first.plain == bare.plain
    assert (first.mark, second.mark, second.plain) == ("executed", "replayed", first.plain)
    return second


@no_operation
async def test_abort_is_exact(cell: Cell) -> None:
    """4.7 abort is replayed, its trailers to the byte (-bin)."""

    async def aborts(context: Any) -> None:
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "too far: ümlaut \n 100 %", TRAILERS)

    answer = await exact(cell, Play(aborts))
    assert (answer.status, answer.details) == (grpc.StatusCode.OUT_OF_RANGE, "too far: ümlaut \n 100 %")
    assert answer.plain.trailers == TRAILERS


class Rich(grpc.Status):
    """A status with a detail."""

    def __init__(self) -> None:
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.ErrorInfo(reason="TOO_POOR", domain="bank.example"))
        packed = status_pb2.Status(code=9, message="too poor", details=[detail]).SerializeToString()
        self.code = grpc.StatusCode.FAILED_PRECONDITION
        self.details = "too poor"
        self.trailing_metadata = ((STATUS_DETAILS, packed),)


@no_operation
async def test_abort_with_status_is_exact(cell: Cell) -> None:
    """4.7 abort_with_status is replayed with its details to the byte."""

    async def aborts(context: Any) -> None:
        await context.abort_with_status(Rich())

    play, key = Play(aborts), cell.key()
    first, second = [await cell.call(play, key=key) for _ in range(2)]
    assert (first.status, first.reason, first.mark) == (grpc.StatusCode.FAILED_PRECONDITION, "TOO_POOR", "executed")
    assert (second.plain, second.mark) == (first.plain, "replayed")
    if cell.column.kind != "thread":  # there gRPC's own context has no such method; the recording one has it
        assert (await cell.call(play)).plain == first.plain


@no_operation
async def test_set_code_is_exact(cell: Cell) -> None:
    """4.7 set_code and a return are replayed, set trailers too."""

    async def sets(context: Any) -> None:
        context.set_code(grpc.StatusCode.ALREADY_EXISTS)
        context.set_details("here it is")
        context.set_trailing_metadata(TRAILERS)

    answer = await exact(cell, Play(sets, counted=False))
    assert (answer.status, answer.details) == (grpc.StatusCode.ALREADY_EXISTS, "here it is")
    assert answer.plain.trailers == TRAILERS


@no_operation
async def test_trailers_beside_ok_are_exact(cell: Cell) -> None:
    """4.7 Trailers beside OK are replayed, -bin ones to the byte."""

    async def sets(context: Any) -> None:
        context.set_trailing_metadata(TRAILERS)

    play, key = Play(sets, counted=False), cell.key()
    bare, first, second = await cell.call(play), await cell.call(play, key=key), await cell.call(play, key=key)
    assert bare.trailers == first.plain.trailers == second.plain.trailers == TRAILERS
    assert second.messages == first.messages == bare.messages


@pytest.mark.any_store
async def test_an_exceptions_text_never_leaves(cell: Cell) -> None:
    """4.7 An exception's text never leaves the server, with a key or without."""

    async def raises(_context: Any) -> None:
        raise LookupError("password=hunter2")

    play, key = Play(raises), cell.key()
    keyed = [] if cell.shape == "bidi" else [await cell.call(play, key=key) for _ in range(2)]
    for answer in (await cell.call(play), *keyed):
        assert (answer.status, answer.details) == (grpc.StatusCode.UNKNOWN, "internal error")
        assert "hunter2" not in repr(answer)
    assert [answer.mark for answer in keyed] == ["executed", "replayed"][: len(keyed)]


class Fatal(BaseException):
    """Not an ``Exception``."""


@pytest.mark.any_store
async def test_a_base_exception_reaches_the_client(cell: Cell) -> None:
    """4.7 A BaseException reaches the client at once, with a key or without."""

    async def dies(_context: Any) -> None:
        raise Fatal("password=hunter2")

    play, key = Play(dies), cell.key()
    keyed = [] if cell.shape == "bidi" else [await cell.call(play, key=key, timeout=5) for _ in range(2)]
    assert [answer.mark for answer in keyed] == ["executed", "replayed"][: len(keyed)]
    for answer in (*keyed, await cell.call(play, timeout=5)):
        assert (answer.status, answer.details) == (grpc.StatusCode.UNKNOWN, "internal error")


@pytest.mark.any_store
async def test_an_exception_after_a_message(cell: Cell) -> None:
    """4.7 An exception after a first message ends the stream, its text concealed."""

    async def dies(_context: Any) -> None:
        raise LookupError("password=hunter2")

    play, key = Play(dies, early=True), cell.key()
    keyed = [] if cell.shape == "bidi" else [await cell.call(play, key=key, timeout=5) for _ in range(2)]
    bare = await cell.call(play, timeout=5)
    for answer in (*keyed, bare):
        assert answer.status is grpc.StatusCode.UNKNOWN
        assert "internal error" in answer.details
        assert "hunter2" not in repr(answer)
        assert [len(message) for message in answer.messages] == ([7] if cell.streams else [])


@no_operation
async def test_abort_with_ok_reaches_the_client(cell: Cell) -> None:
    """4.7 abort(OK) is a mistake that reaches the client at once."""

    async def aborts(context: Any) -> None:
        await context.abort(grpc.StatusCode.OK, "fine")

    play, key = Play(aborts), cell.key()
    first, second = [await cell.call(play, key=key, timeout=5) for _ in range(2)]
    # grpc.server makes UNKNOWN of it, as of any code that is none; grpc.aio would leave the client without an answer.
    details = "" if cell.column.kind == "sync" else "internal error"
    assert (first.status, first.details) == (grpc.StatusCode.UNKNOWN, details)
    assert (second.plain, second.mark) == (first.plain, "replayed")


@no_operation
@pytest.mark.any_store
async def test_a_swallowed_abort_wins(cell: Cell) -> None:
    """4.7 An abort counts though the handler swallows it."""

    async def swallows(context: Any) -> None:
        with contextlib.suppress(Exception):
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, "too far")

    play, key = Play(swallows), cell.key()
    first, second = [await cell.call(play, key=key) for _ in range(2)]
    assert (first.status, first.details) == (grpc.StatusCode.OUT_OF_RANGE, "too far")
    assert (second.status, second.details, second.mark) == (first.status, first.details, "replayed")


@no_operation
@pytest.mark.any_store
async def test_trailers_are_capped(cell: Cell) -> None:
    """4.11 Trailers above 6 KiB are dropped from the first answer on."""

    async def large(context: Any) -> None:
        context.set_trailing_metadata((("x-small", "1"), ("x-large", "y" * 7000), ("x-last", "2")))

    play, key = Play(large), cell.key()
    first, second = [await cell.call(play, key=key) for _ in range(2)]
    assert first.plain.trailers == (("x-small", "1"), ("x-last", "2"))
    assert (second.plain, second.mark) == (first.plain, "replayed")


@no_operation
@pytest.mark.any_store
async def test_details_that_are_no_text(cell: Cell) -> None:
    """4.7 A status message that can't be sent is refused in the handler, and that failure is stored."""

    async def aborts(context: Any) -> None:
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone: \ud800")

    play, key = Play(aborts), cell.key()
    first, second = [await cell.call(play, key=key) for _ in range(2)]
    # On grpc.server a code that abort was given is set before its message is looked at.
    status = grpc.StatusCode.NOT_FOUND if cell.column.kind == "sync" else grpc.StatusCode.UNKNOWN
    assert (first.status, first.details, first.mark) == (status, "internal error", "executed")
    assert (second.plain, second.mark) == (first.plain, "replayed")
