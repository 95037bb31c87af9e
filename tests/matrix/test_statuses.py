"""Which statuses and exceptions of a handler are stored, and which release the operation (4.5, 4.6)."""

import asyncio
from typing import Any

import grpc
import pytest

from grpc_idempotency import OutcomeUnknown, State

from ..harness.replies import Reply, refused
from .echo import Play
from .rig import Cell, no_operation, said, transactions

pytestmark = pytest.mark.asyncio(loop_scope="module")

STORED = [
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "FAILED_PRECONDITION",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "DATA_LOSS",
]
RELEASED = ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED", "UNAUTHENTICATED", "PERMISSION_DENIED"]
UNCLEAR = ["UNKNOWN", "INTERNAL", "DEADLINE_EXCEEDED", "CANCELLED"]


async def is_stored(cell: Cell, status: str, variant: str = "plain") -> bool:
    """Returns true if an answer with this status is stored. Checks that both calls get it."""

    async def aborts(context: Any) -> None:
        await context.abort(grpc.StatusCode[status], "so it is")

    play, key = Play(aborts), cell.key()
    first, second = [await cell.call(play, key=key, variant=variant) for _ in range(2)]
    assert (first.status, first.details, first.mark) == (grpc.StatusCode[status], "so it is", "executed")
    assert second.plain == first.plain
    assert (second.mark, play.runs) in [("replayed", 1), ("executed", 2)]
    return play.runs == 1


@no_operation
@pytest.mark.any_store
@pytest.mark.parametrize("effects", ["plain", "repeatable"], ids=["opaque", "repeatable"])
async def test_statuses_that_are_stored(cell: Cell, effects: str) -> None:
    """4.6 Statuses that are a finding are stored and replayed."""
    assert [status for status in STORED if await is_stored(cell, status, effects)] == STORED


@no_operation
@pytest.mark.any_store
@pytest.mark.parametrize("effects", ["plain", "repeatable"], ids=["opaque", "repeatable"])
async def test_statuses_that_release(cell: Cell, effects: str) -> None:
    """4.6 Statuses that say that nothing happened release: a retry runs."""
    assert not [status for status in RELEASED if await is_stored(cell, status, effects)]


@no_operation
@pytest.mark.any_store
async def test_unclear_statuses_of_opaque(cell: Cell) -> None:
    """4.5 opaque: an unclear status is stored and replayed."""
    assert [status for status in UNCLEAR if await is_stored(cell, status)] == UNCLEAR


@no_operation
@pytest.mark.any_store
async def test_unclear_statuses_of_repeatable(cell: Cell) -> None:
    """4.5 repeatable: an unclear status releases: a retry runs."""
    assert not [status for status in UNCLEAR if await is_stored(cell, status, "repeatable")]


@no_operation
@pytest.mark.any_store
async def test_a_policy_changes_statuses(cell: Cell) -> None:
    """4.6, 7 A policy can change what each status does."""
    stored = [status for status in ("NOT_FOUND", "ABORTED") if await is_stored(cell, status, "swapped")]
    assert stored == ["ABORTED"]


async def raising(cell: Cell, variant: str) -> tuple[list[Any], int]:
    """Makes two calls of a handler whose first run raises. Returns their marks, and how often it ran."""

    async def raises_first(_context: Any) -> None:
        if play.runs == 1:
            raise LookupError("the text of an exception")

    play, key = Play(raises_first), cell.key()
    first, second = [await cell.call(play, key=key, variant=variant) for _ in range(2)]
    assert (first.status, first.details) == (grpc.StatusCode.UNKNOWN, "internal error")
    return [first.mark, second.mark], play.runs


@no_operation
@pytest.mark.any_store
async def test_opaque_that_raises(cell: Cell) -> None:
    """4.5 opaque: an exception is stored and replayed."""
    assert await raising(cell, "plain") == (["executed", "replayed"], 1)


@no_operation
@pytest.mark.any_store
async def test_repeatable_that_raises(cell: Cell) -> None:
    """4.5 repeatable: an exception releases: a retry runs."""
    assert await raising(cell, "repeatable") == (["executed", "executed"], 2)


@no_operation
@transactions
async def test_transactional_that_raises(cell: Cell) -> None:
    """4.5 transactional: an exception rolls back and releases: a retry runs."""
    assert await raising(cell, "transactional") == (["executed", "executed"], 2)


async def doubting(cell: Cell, variant: str) -> tuple[Play, list[Reply]]:
    """Makes two calls of a handler whose first run can't know whether it took effect."""

    async def doubts_first(_context: Any) -> None:
        if play.runs == 1:
            raise OutcomeUnknown("the text for operators")

    play, key = Play(doubts_first, early=True), cell.key()
    replies = [await cell.call(play, key=key, variant=variant) for _ in range(2)]
    assert "operators" not in "".join(f"{reply.details}{reply.trailers}" for reply in replies)
    return play, replies


@no_operation
async def test_opaque_that_can_not_know(cell: Cell) -> None:
    """4.5 opaque: OutcomeUnknown holds the operation, with the reason for operators alone."""
    play, replies = await doubting(cell, "plain")
    for reply in replies:
        refused(reply, "OUTCOME_UNKNOWN", grpc.StatusCode.FAILED_PRECONDITION)
        assert "its handler could not find out" in reply.details
    record = await cell.record()
    assert record is not None
    assert (record.state, play.runs) == (State.HELD, 1)
    assert record.reason == "its handler could not find out: the text for operators"


@no_operation
async def test_repeatable_that_can_not_know(cell: Cell) -> None:
    """4.5 repeatable: OutcomeUnknown releases with UNAVAILABLE: a retry runs."""
    _, (first, second) = await doubting(cell, "repeatable")
    assert (first.status, first.mark) == (grpc.StatusCode.UNAVAILABLE, "executed")
    assert "Retry with the same key" in first.details
    assert ("run 2" in said(second), second.mark) == (True, "executed")


@no_operation
@transactions
@pytest.mark.parametrize("effects", ["transactional", "recovered"])
async def test_transactional_that_can_not_know(cell: Cell, effects: str) -> None:
    """4.5 transactional: OutcomeUnknown rolls back and releases with UNAVAILABLE: a retry runs."""
    _, (first, second) = await doubting(cell, effects)
    assert (first.status, first.mark) == (grpc.StatusCode.UNAVAILABLE, "executed")
    assert ("run 2" in said(second), second.mark) == (True, "executed")


@no_operation
@pytest.mark.left_out(
    **dict.fromkeys(
        ("thread", "sync"), "a thread can't be cancelled from inside, and asyncio's exception is no part of it"
    )
)
async def test_cancelled_from_inside(cell: Cell) -> None:
    """4.5 Cancelled from inside: opaque is held, repeatable runs again."""

    async def cancels(_context: Any) -> None:
        if play.runs == 1:
            raise asyncio.CancelledError

    play, key = Play(cancels), cell.key()
    for _ in range(2):
        answer = await cell.call(play, key=key, timeout=10)
        refused(answer, "OUTCOME_UNKNOWN", grpc.StatusCode.FAILED_PRECONDITION)
    play, key = Play(cancels), cell.key()
    first, second = [await cell.call(play, key=key, variant="repeatable", timeout=10) for _ in range(2)]
    assert (first.status, first.mark) == (grpc.StatusCode.UNAVAILABLE, "executed")
    assert (said(second)[0], second.mark) == ("run 2", "executed")
