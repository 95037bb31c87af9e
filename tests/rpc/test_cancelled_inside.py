"""Handlers on ``grpc.aio`` whose tasks are cancelled from inside the server (4.1, 4.4, 4.5)."""

import asyncio
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from grpc_idempotency import Effects, Policy, State, StoreUnavailable
from grpc_idempotency._server.aio.executions import Executions
from grpc_idempotency.records import Claim

from ..harness.replies import new_key, refused
from ..harness.servers import Servers, claims
from ..harness.stores import FlakyStore
from ..harness.waiting import Gate, until
from .counting import EFFECTS, THREAD, Counting, cancel_all, streaming, tasks_of_the_library
from .test_keys import Request

KINDS = ("async", "thread")


@THREAD
@EFFECTS
async def test_a_threads_operation_is_not_released(serve: Servers, effects: Effects) -> None:
    """Its task is cancelled, and its thread runs on: it stays claimed, and duplicates get its reply (4.1, 4.3)."""
    handler, key = Counting(), new_key()
    service = await serve({"Do": handler}, policy=Policy(**claims(effects)))
    first = service.start("Do", key=key)
    await handler.began.wait()
    cancel_all()
    await asyncio.sleep(0)
    assert not tasks_of_the_library()  # nothing that a loop would wait for at its end
    assert (await service.the_record()).state is State.RUNNING
    second = service.start("Do", key=key)
    handler.go.open()
    assert (await first.end()).text == (await second.end()).text == "run 1"
    assert (handler.runs, handler.most_inside) == (1, 1)


@EFFECTS
async def test_a_handler_that_swallows_its_cancellation_is_not_released(serve: Servers, effects: Effects) -> None:
    """It still executes, so nothing runs beside it (4.1)."""
    handler, key = Counting(stubborn=True), new_key()
    service = await serve({"Do": handler}, policy=Policy(**claims(effects)))
    first = service.start("Do", key=key)
    await handler.began.wait()
    cancel_all()
    second = service.start("Do", key=key)
    handler.go.open()
    assert (await first.end()).text == (await second.end()).text == "run 1"
    assert (handler.runs, handler.most_inside) == (1, 1)


spawn = Executions.spawn


def spawn_and_cancel(executions: Executions, *given: Any) -> Any:
    """Makes a task that is cancelled before its first step."""
    task = spawn(executions, *given)
    task.cancel()
    return task


async def test_a_task_that_is_cancelled_before_its_first_step(serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is refused at once, and its key stays free (4.1)."""
    handler, key = Counting(), new_key()
    handler.go.open()
    service = await serve({"Do": handler})
    monkeypatch.setattr(Executions, "spawn", spawn_and_cancel)
    refused(await service.call("Do", key=key), "STORE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
    monkeypatch.undo()
    assert (await service.call("Do", key=key)).text == "run 1"


async def test_a_claim_that_can_not_be_given_back(serve: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is refused at once, also by a store that raises when it is called, before it is awaited (4.1, 6.1)."""
    service = await serve({"Do": Counting()})

    def down(*_: Any) -> Any:
        raise StoreUnavailable("down, for the test")

    monkeypatch.setattr(Executions, "spawn", spawn_and_cancel)
    monkeypatch.setattr(service.store, "release", down)
    refused(await service.call("Do", key=new_key()), "STORE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)


class Held(FlakyStore):
    """A store whose claims, or completions, wait."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(path)
        self._name = name
        self.held, self.go = Gate(), Gate()

    async def _hold(self, name: str) -> None:
        if name == self._name:
            self.held.open()
            await self.go.wait()

    async def claim(self, claim: Claim, *, over: bytes | None = None) -> Any:
        found = await super().claim(claim, over=over)
        await self._hold("claim")
        return found

    async def complete(self, *given: Any, **named: Any) -> datetime | None:
        done = await super().complete(*given, **named)
        await self._hold("complete")
        return done


async def test_what_is_cancelled_in_its_claim_never_begins(serve: Servers, tmp_path: Path) -> None:
    """The claim may be there, and nothing ran: it is taken back, so that a retry runs (4.1, 5.5)."""
    handler, key = Counting(), new_key()
    handler.go.open()
    store = Held(tmp_path / "held.db", "claim")
    service = await serve({"Do": handler}, store=store)
    first = service.start("Do", key=key)
    await store.held.wait()
    cancel_all()
    refused(await first.end(), "STORE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
    assert handler.runs == 0
    store.go.open()
    assert (await service.call("Do", key=key)).text == "run 1"


@EFFECTS
async def test_what_is_cancelled_in_its_completion_is_completed(
    serve: Servers, tmp_path: Path, effects: Effects
) -> None:
    """The handler's answer is stored and told, whoever cancels (4.4)."""
    handler, key = Counting(), new_key()
    handler.go.open()
    store = Held(tmp_path / "held.db", "complete")
    service = await serve({"Do": handler}, store=store, policy=Policy(**claims(effects)))
    first = service.start("Do", key=key)
    await store.held.wait()
    cancel_all()
    store.go.open()
    assert (await first.end()).text == "run 1"
    assert (await service.call("Do", key=key)).mark == "replayed"
    assert handler.runs == 1


@THREAD
@pytest.mark.parametrize("effects", [Effects.OPAQUE, Effects.REPEATABLE])
async def test_a_stream_whose_thread_waits_for_its_readers(serve: Servers, effects: Effects) -> None:
    """A stream goes on to its end and is stored, whatever is cancelled in the loop meanwhile (4.5, 4.8)."""
    emitted = []

    def export(_request: Any, _context: Any) -> Iterator[Any]:
        for number in range(400):
            emitted.append(number)
            yield Request(body="x" * 65536)

    async def held_up() -> bool:
        before = len(emitted)
        await asyncio.sleep(0.05)
        return 0 < before == len(emitted)

    service = await streaming(serve, export, policy=Policy(**claims(effects)))
    call = service.start("Do", Request(request_id=new_key()))
    await call.read()
    await until(held_up)
    assert len(emitted) < 400
    cancel_all()
    reply = await call.end()
    assert (len(reply.messages), reply.status) == (400, grpc.StatusCode.OK)


async def test_sweeps_and_recovery_go_on(serve: Servers) -> None:
    """Cancelled with all other tasks, they begin again with the next keyed call (5.4)."""
    handler = Counting()
    handler.go.open()
    service = await serve({"Do": handler}, policy=Policy(effects=Effects.REPEATABLE))
    before = len(tasks_of_the_library())
    cancel_all()
    await asyncio.sleep(0)
    await service.call("Do", key=new_key())

    async def again() -> bool:
        return len(tasks_of_the_library()) == before

    assert before == 2
    await until(again)
