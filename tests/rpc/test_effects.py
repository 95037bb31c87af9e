"""What the ``effects`` of a method decide (4.5)."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, Policy, State

from ..harness.replies import new_key, refused, text
from ..harness.servers import Servers, claims
from ..harness.waiting import Gate, ms, until

UNAVAILABLE, UNKNOWN = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION

opaque = pytest.mark.parametrize("effects", [Effects.OPAQUE], ids=["opaque"])
again = pytest.mark.parametrize("effects", [Effects.TRANSACTIONAL, Effects.REPEATABLE], ids=lambda e: e.value)


class First:
    """A handler whose first run goes wrong in some way; the next ones answer."""

    def __init__(self, wrong: Any) -> None:
        self.runs = 0
        self._wrong = wrong

    async def __call__(self, _request: Any, context: Any) -> StringValue:
        self.runs += 1
        if self.runs == 1:
            await self._wrong(context)
        return text(f"run {self.runs}")


async def cancels(_context: Any) -> None:
    raise asyncio.CancelledError


async def cancels_itself(_context: Any) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


# Cancelled from inside


inside = pytest.mark.parametrize("wrong", [cancels, cancels_itself])


@pytest.mark.parametrize("kind", ["async"])
@inside
@opaque
async def test_opaque_cancelled_from_inside_is_held(serve: Servers, effects: Effects, wrong: Any) -> None:
    """An opaque handler that was cancelled from inside is held; its client hears so at once (4.5)."""
    handler = First(wrong)
    service = await serve({"Do": handler}, policy=Policy(effects=effects))
    key = new_key()
    for _ in range(2):
        refused(await service.call("Do", key=key, timeout=5), "OUTCOME_UNKNOWN", PRECONDITION)
    assert handler.runs == 1
    assert "cancelled" in (await service.the_record()).reason


@pytest.mark.parametrize("kind", ["async"])
@inside
@again
async def test_cancelled_from_inside_runs_again(serve: Servers, effects: Effects, wrong: Any) -> None:
    """Where nothing remains of a run that was cut short, its client hears UNAVAILABLE and a retry runs (4.5)."""
    service = await serve({"Do": First(wrong)}, policy=Policy(effects=effects))
    key = new_key()
    first = await service.call("Do", key=key, timeout=5)
    assert (first.status, first.mark) == (UNAVAILABLE, "executed")
    assert "Retry with the same key" in first.details
    assert (await service.call("Do", key=key)).text == "run 2"


# Past the execution limit


def short(effects: Effects) -> Policy:
    return Policy(**claims(effects), execution_limit=ms(100))


async def overruns(_context: Any) -> None:
    await asyncio.sleep(60)


@pytest.mark.parametrize("kind", ["async"])
@opaque
async def test_opaque_overrun_is_held(serve: Servers, effects: Effects) -> None:
    """An opaque handler that ran past its limit is stopped and held (4.5)."""
    handler = First(overruns)
    service = await serve({"Do": handler}, policy=short(effects))
    key = new_key()
    for _ in range(2):
        refused(await service.call("Do", key=key), "OUTCOME_UNKNOWN", PRECONDITION)
    assert handler.runs == 1
    assert "execution limit" in (await service.the_record()).reason


@pytest.mark.parametrize("kind", ["async"])
@again
async def test_overrun_runs_again(serve: Servers, effects: Effects) -> None:
    """Where nothing remains of it, a handler that ran past its limit is stopped, and a retry runs (4.5)."""
    service = await serve({"Do": First(overruns)}, policy=short(effects))
    key = new_key()
    first = await service.call("Do", key=key)
    assert first.status is UNAVAILABLE
    assert (await service.call("Do", key=key)).text == "run 2"


class Stubborn:
    """A first run that can't be stopped: it goes on until it is let go, whatever happens to it."""

    def __init__(self) -> None:
        self.go = Gate()

    async def __call__(self, _context: Any) -> None:
        while True:
            try:
                return await self.go.wait()
            except asyncio.CancelledError:
                continue


@opaque
async def test_opaque_that_cannot_be_stopped(serve: Servers, kind: str, effects: Effects) -> None:
    """One that can't be stopped is held, and its client told; what it answers late resolves the record (4.2, 4.5)."""
    stubborn = Stubborn()
    handler = First(stubborn)
    service = await serve({"Do": handler}, policy=short(effects))
    key = new_key()
    refused(await service.call("Do", key=key), "OUTCOME_UNKNOWN", PRECONDITION)
    refused(await service.call("Do", key=key), "OUTCOME_UNKNOWN", PRECONDITION)
    assert "could not be stopped" in (await service.the_record()).reason
    stubborn.go.open()

    async def resolved() -> bool:
        return (await service.the_record()).state is State.COMPLETED

    await until(resolved)
    late = await service.call("Do", key=key)
    assert (late.text, late.mark, handler.runs) == ("run 1", "replayed", 1)


@again
async def test_one_that_cannot_be_stopped_keeps_its_lease(serve: Servers, kind: str, effects: Effects) -> None:
    """Another run must not begin beside it: a retry waits, and gets what it answers late (4.1, 4.5)."""
    stubborn = Stubborn()
    handler = First(stubborn)
    service = await serve({"Do": handler}, policy=short(effects))
    key = new_key()
    assert (await service.call("Do", key=key)).status is UNAVAILABLE
    assert (await service.the_record()).state is State.RUNNING
    asked = service.store.asked["standing"]
    retry = asyncio.ensure_future(service.call("Do", key=key))

    async def waits() -> bool:
        return bool(service.store.asked["standing"] > asked)

    await until(waits)
    assert not retry.done()
    stubborn.go.open()
    reply = await retry
    assert (reply.text, reply.mark, handler.runs) == ("run 1", "attached", 1)


# An operator


async def test_an_operator_resolves(serve: Servers, kind: str) -> None:
    """An operator resolves a held operation: as completed with an outcome, or as never happened (6.4)."""
    from grpc_idempotency import Code, Outcome

    stubborn = Stubborn()
    handler = First(stubborn)
    service = await serve({"Do": handler}, policy=short(Effects.OPAQUE))
    key = new_key()
    refused(await service.call("Do", key=key), "OUTCOME_UNKNOWN", PRECONDITION)
    held = await service.the_record()
    decided = Outcome(status=Code.OK, message=text("decided").SerializeToString())
    assert await service.store.resolve(held.name, held.fence, decided, ms(60_000))
    reply = await service.call("Do", key=key)
    assert (reply.text, reply.mark) == ("decided", "replayed")
    stubborn.go.open()


@pytest.mark.parametrize("kind", ["async"])
async def test_an_operator_resolves_as_never_happened(serve: Servers) -> None:
    """Resolved as never happened, the operation is absent, and a retry runs (6.4)."""
    service = await serve({"Do": First(cancels)})
    key = new_key()
    refused(await service.call("Do", key=key), "OUTCOME_UNKNOWN", PRECONDITION)
    held = await service.the_record()
    assert await service.store.resolve(held.name, held.fence, None, ms(60_000))
    assert (await service.call("Do", key=key)).text == "run 2"
