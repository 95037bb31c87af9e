"""What happens to an operation from its claim to its expiry (4.1 to 4.5, 4.9, 5.1, 5.5, 6.3)."""

from datetime import timedelta
from typing import Any

import grpc
import pytest

from grpc_idempotency import Code, Outcome, Record, State
from grpc_idempotency.records import Renewal

from ..harness.replies import refused
from ..harness.waiting import ms, until
from .echo import Play
from .rig import Cell, no_operation, said, transactions

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOUR = timedelta(hours=1)


def lapsed(record: Record | None) -> bool:
    return record is not None and (record.lapsed or record.state is State.HELD)  # recovery may have seen it first


def absent(record: Record | None) -> bool:
    return record is None


def failure(cell: Cell, details: str) -> Outcome:
    """Another outcome; of a stream it has the messages too, here none."""
    return Outcome(status=Code.NOT_FOUND, details=details, message=b"" if cell.streams else None)


# Nobody watching


@no_operation
async def test_a_client_that_cancels(cell: Cell) -> None:
    """4.4 Its client cancels: it runs to its end, is stored and replayed."""
    play, key = Play(blocks=True), cell.key()
    call = cell.start(play, key=key)
    await play.began.wait()
    await call.cancel()
    await cell.is_gone()
    play.go.open()
    await play.ended.wait()
    await cell.until_completed()
    retry = await cell.call(play, key=key)
    assert (said(retry)[0], retry.mark, play.runs) == ("run 1", "replayed", 1)


@no_operation
async def test_a_retry_that_attaches(cell: Cell) -> None:
    """4.4 A retry attaches to what its cancelled call has begun."""
    play, key = Play(blocks=True), cell.key()
    call = cell.start(play, key=key)
    await play.began.wait()
    await call.cancel()
    await cell.is_gone()
    before = cell.column.followers()
    retry = cell.start(play, key=key)
    await cell.is_followed(before + 1)
    play.go.open()
    answer = await retry.answer()
    assert (said(answer)[0], answer.mark, play.runs) == ("run 1", "attached", 1)


@no_operation
async def test_a_deadline_that_passes(cell: Cell) -> None:
    """4.4 A deadline ends its call and not the operation."""
    play, key = Play(blocks=True), cell.key()
    for timeout in (0.3, 1, 3, 10):  # on a busy machine a call may end before it comes to its handler
        assert (await cell.call(play, key=key, timeout=timeout)).status is grpc.StatusCode.DEADLINE_EXCEEDED
        if play.began.opened:
            break
    play.go.open()
    await cell.until_completed()
    assert ((await cell.call(play, key=key)).mark, play.runs) == ("replayed", 1)


# Those who wait


@no_operation
async def test_waiters_contend(cell: Cell) -> None:
    """4.3 Released while others wait: they contend for one new claim."""

    async def refuses_first(context: Any) -> None:
        if play.runs == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "nothing happened")

    play, key = Play(refuses_first, blocks=True), cell.key()
    first = cell.start(play, key=key)
    await play.began.wait()
    others = [cell.start(play, key=key) for _ in range(3)]
    await cell.is_followed(4)
    play.go.open()
    assert (await first.answer()).status is grpc.StatusCode.UNAVAILABLE
    answers = [await call.answer() for call in others]
    assert {said(answer)[0] for answer in answers} == {"run 2"}
    assert ([answer.mark for answer in answers].count("executed"), play.runs) == (1, 2)


@no_operation
async def test_waiting_for_another_server(cell: Cell) -> None:
    """4.3 A duplicate of a run on another server waits for its outcome."""
    key = cell.key()
    play, claim = await cell.elsewhere(key, "plain", lease=HOUR)
    asked = cell.faults.asked["standing"]
    call = cell.start(play, key=key)

    async def polled() -> bool:
        return cell.faults.asked["standing"] > asked

    await until(polled)
    decided = failure(cell, "decided elsewhere")
    assert await cell.records.complete(claim.name, claim.fence, decided, HOUR)
    answer = await call.answer()
    assert (answer.status, answer.details) == (grpc.StatusCode.NOT_FOUND, "decided elsewhere")
    assert (answer.mark, play.runs) == ("attached", 1)


@no_operation
async def test_the_wait_for_another_server_ends(cell: Cell) -> None:
    """4.3, 4.9 A live lease is left alone: IN_FLIGHT when the wait is over."""
    key = cell.key()
    play, claim = await cell.elsewhere(key, "patient", lease=HOUR)
    refused(await cell.call(play, key=key, variant="patient"), "IN_FLIGHT", grpc.StatusCode.UNAVAILABLE)
    record = await cell.record()
    assert record is not None
    assert (record.fence, record.state, play.runs) == (claim.fence, State.RUNNING, 1)


# Leases


async def taken_over(cell: Cell, variant: str) -> None:
    """A call takes over a dead server's run; whoever was dead changes nothing any more."""
    key = cell.key()
    play, claim = await cell.elsewhere(key, variant, lease=ms(1))
    await cell.until_record(lapsed)
    play.blocks = True
    call = cell.start(play, key=key, variant=variant)

    async def taken() -> bool:
        return play.runs == 2

    await until(taken)
    assert not await cell.records.complete(claim.name, claim.fence, Outcome(status=Code.NOT_FOUND), HOUR)
    assert not await cell.records.release(claim.name, claim.fence)
    play.go.open()
    answer = await call.answer()
    assert (said(answer)[0], answer.mark) == ("run 2", "executed")
    record = await cell.record()
    assert record is not None
    assert (record.attempts, record.state, record.fence != claim.fence) == (2, State.COMPLETED, True)


@no_operation
async def test_repeatable_is_taken_over(cell: Cell) -> None:
    """4.2, 4.9 repeatable: a dead server's run is taken over and fenced off."""
    await taken_over(cell, "repeatable")


@no_operation
@transactions
async def test_transactional_is_taken_over(cell: Cell) -> None:
    """4.2, 4.9 transactional, recovered: a dead server's run is taken over, fenced off."""
    await taken_over(cell, "recovered")


@no_operation
async def test_opaque_is_held(cell: Cell) -> None:
    """4.2, 4.5 opaque: a dead server's run is held; its own late end counts."""
    key = cell.key()
    play, claim = await cell.elsewhere(key, "plain", lease=ms(1))
    await cell.until_record(lapsed)
    for _ in range(2):
        refused(await cell.call(play, key=key), "OUTCOME_UNKNOWN", grpc.StatusCode.FAILED_PRECONDITION)
    assert play.runs == 1
    late = failure(cell, "late, but the truth")
    assert await cell.records.complete(claim.name, claim.fence, late, HOUR)
    answer = await cell.call(play, key=key)
    assert (answer.details, answer.mark, play.runs) == ("late, but the truth", "replayed", 1)


@no_operation
async def test_another_request_takes_nothing_over(cell: Cell) -> None:
    """3.2, 4.9 Another request does not run in a dead one's place."""
    key = cell.key()
    play, _ = await cell.elsewhere(key, "repeatable", lease=ms(1))
    await cell.until_record(lapsed)
    answer = await cell.call(play, *cell.texts("another", "request"), key=key, variant="repeatable")
    refused(answer, "KEY_REUSED", grpc.StatusCode.FAILED_PRECONDITION)
    assert play.runs == 1


@no_operation
async def test_a_lease_is_renewed(cell: Cell) -> None:
    """4.9 The lease is renewed while the handler runs."""
    play, key = Play(blocks=True), cell.key()
    call = cell.start(play, key=key, variant="renewed")
    await play.began.wait()
    claim = cell.faults.claims[-1]
    # As if its lease were about to end.
    assert await cell.records.renew(claim.name, claim.fence, ms(1)) is Renewal.RENEWED
    await cell.until_record(lambda record: record is not None and not record.lapsed)
    play.go.open()
    assert (await call.answer()).mark == "executed"


@no_operation
async def test_a_fence_is_never_reused(cell: Cell) -> None:
    """4.2 What is released and claimed again has another fence."""

    async def refuses(context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "nothing happened")

    play, key = Play(refuses), cell.key()
    for _ in range(3):
        await cell.call(play, key=key)
        assert await cell.record() is None
    assert len({claim.fence for claim in cell.faults.claims[-3:]}) == 3
    assert len({claim.name for claim in cell.faults.claims[-3:]}) == 1


# The store


@no_operation
async def test_stored_before_the_status_leaves(cell: Cell) -> None:
    """4.1, 5.5 The outcome is stored before the status leaves; tried again."""
    play, key = Play(), cell.key()
    cell.faults.failed.pop("complete", None)
    cell.faults.down.add("complete")
    call = cell.start(play, key=key)
    await cell.faults.failed["complete"].wait()
    assert not call.done()
    cell.faults.down.clear()
    assert (await call.answer()).mark == "executed"
    record = await cell.record()
    assert record is not None
    assert record.state is State.COMPLETED


@no_operation
async def test_expiry(cell: Cell) -> None:
    """6.3 An expired operation is absent: its key may name another request."""
    play, key = Play(), cell.key()
    assert (await cell.call(play, key=key, variant="brief")).mark == "executed"
    await cell.until_record(absent)
    answer = await cell.call(play, *cell.texts("another", "request"), key=key, variant="brief")
    assert (said(answer)[0], answer.mark) == ("run 2", "executed")


# Transactions


async def rows(cell: Cell, play: Play) -> int:
    """How many rows the play has left."""
    found = await cell.column.beside.read(lambda db: db.execute("SELECT play FROM rows").fetchall())
    return int(found.count((play.name,)))


@no_operation
@transactions
async def test_rows_and_outcome(cell: Cell) -> None:
    """5.1 A transaction's rows and the outcome are there together, once."""
    play, key = Play(row=True), cell.key()
    first, second = [await cell.call(play, key=key, variant="transactional") for _ in range(2)]
    assert (said(first), first.mark) == (["run 1", *cell.texts("a", "b")], "executed")
    assert (second.plain, second.mark) == (first.plain, "replayed")
    assert (await rows(cell, play), play.runs) == (1, 1)


@no_operation
@transactions
async def test_rows_without_a_key(cell: Cell) -> None:
    """5.1 Without a key it is just a transaction."""
    play = Play(row=True)
    assert [(await cell.call(play, variant="transactional")).mark for _ in range(2)] == [None, None]
    assert await rows(cell, play) == 2


@no_operation
@transactions
async def test_rows_are_rolled_back(cell: Cell) -> None:
    """4.6, 5.1 Where the status is not OK, the rows are rolled back."""
    for code, mark in ((grpc.StatusCode.NOT_FOUND, "replayed"), (grpc.StatusCode.UNAVAILABLE, "executed")):

        async def sets(context: Any, code: grpc.StatusCode = code) -> None:
            context.set_code(code)

        play, key = Play(sets, row=True), cell.key()
        first, second = [await cell.call(play, key=key, variant="transactional") for _ in range(2)]
        assert (first.status, second.status, second.mark) == (code, code, mark)
        assert await rows(cell, play) == 0


@no_operation
@transactions
async def test_a_commit_that_fails(cell: Cell) -> None:
    """5.1 A commit that failed is UNAVAILABLE, rolled back and released."""
    play, key = Play(row=True), cell.key()
    cell.faults.down.add("transaction")
    first = await cell.call(play, key=key, variant="transactional")
    assert (first.status, await rows(cell, play)) == (grpc.StatusCode.UNAVAILABLE, 0)
    assert "Retry with the same key" in first.details
    cell.faults.down.clear()
    assert (await cell.call(play, key=key, variant="transactional")).mark == "executed"
    assert await rows(cell, play) == 1


@no_operation
@transactions
async def test_what_was_committed_counts(cell: Cell) -> None:
    """5.1 Cancelled while it commits: one row, and a retry gets its reply."""
    play, key, written = Play(row=True, blocks=True), cell.key(), len(cell.faults.claims)
    call = cell.start(play, key=key, variant="transactional")
    await play.began.wait()
    await call.cancel()
    play.go.open()

    async def commits() -> bool:
        return len(cell.faults.claims) > written

    await until(commits)
    await cell.until_completed()
    answer = await cell.call(play, key=key, variant="transactional")
    assert (said(answer)[0], answer.mark, await rows(cell, play)) == ("run 1", "replayed", 1)
