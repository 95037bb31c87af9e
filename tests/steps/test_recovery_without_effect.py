"""Transactional operations whose servers are gone, and that have had no effect, are released by a live server (5.4)."""

import asyncio
import threading
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, Policy, SQLiteStore, State, StoreUnavailable, aio
from grpc_idempotency.records import Step

from ..harness.handlers import SERVICE
from ..harness.replies import new_key, text
from ..harness.servers import Servers
from ..harness.waiting import Gate, until
from .operations import here
from .recovery import TRANSACTIONAL, dead, some_rounds

pytestmark = pytest.mark.usefixtures("promptly")


async def do(_request: StringValue, _context: Any) -> StringValue:
    return text("done")


async def absent(store: SQLiteStore, name: bytes) -> bool:
    return await asyncio.to_thread(store.get, name) is None


async def test_what_has_had_no_effect_is_released(
    serve: Servers, left_behind: SQLiteStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a request nobody else can run it again, so that its record would stay for ever (5.4, 6.3)."""
    names = [dead(left_behind, effects=Effects.TRANSACTIONAL, stored=False, runs=runs) for runs in (1, 2, 30)]
    await serve({"Do": do}, policy=TRANSACTIONAL)
    for name in names:
        await until(lambda name=name: absent(left_behind, name))  # type: ignore[misc]  # the default binds it
    lines = {
        f"operation {name.hex()} of /{SERVICE}/Do is released: its server is gone, and it has had no effect"
        for name in names
    }

    async def told() -> bool:
        return lines <= {record.getMessage() for record in caplog.records}

    await until(told)  # each line comes when its record is released


async def test_what_has_finished_steps_is_left_to_its_client(serve: Servers, left_behind: SQLiteStore) -> None:
    """Its steps have had effects, and without its request only its client can run it again (5.2, 5.4)."""
    stepped = dead(left_behind, effects=Effects.TRANSACTIONAL, stored=False)
    record = left_behind.get(stepped)
    assert record is not None
    step = Step(name="charge", position=0, result=b"", undoable=False)
    assert left_behind.record_step(stepped, record.fence, step)
    other = dead(left_behind, effects=Effects.TRANSACTIONAL, stored=False)
    await serve({"Do": do}, policy=TRANSACTIONAL)
    await until(lambda: absent(left_behind, other))
    left = left_behind.get(stepped)
    assert left is not None
    assert (left.state, left.fence) == (State.RUNNING, record.fence)
    assert [one.name for one in left_behind.steps(stepped)] == ["charge"]


async def test_what_is_slow_is_not_released_at_once(serve: Servers, left_behind: SQLiteStore) -> None:
    """An owner that was cut off from its store for a while may renew its lease first, and commits (4.9, 5.4)."""
    name = dead(left_behind, effects=Effects.TRANSACTIONAL, stored=False)
    slow = Policy(effects=Effects.TRANSACTIONAL)  # its lease is 15 seconds
    service = await serve({"Do": do}, policy=slow)
    await some_rounds(service)
    record = left_behind.get(name)
    assert record is not None
    assert (record.state, record.lapsed) == (State.RUNNING, True)


async def test_what_runs_here_is_not_released(serve: Servers) -> None:
    """A server does not release its own operation, though it could not renew its lease for long (4.9, 5.4)."""
    began, go, blocked = Gate(), Gate(), threading.Event()

    async def waits() -> str:
        began.open()
        await go.wait()
        return "stepped"

    def blocks() -> str:
        began.open()
        assert blocked.wait(20)
        return "stepped"

    async def stepping(_request: StringValue, _context: Any) -> StringValue:
        operation = here()
        return text(await operation.step("waits", waits if isinstance(operation.operation, aio.Operation) else blocks))

    service = await serve({"Do": stepping}, policy=TRANSACTIONAL)
    renew = service.store.renew

    def fails(*_args: Any) -> Any:
        raise StoreUnavailable("cut off")

    service.store.renew = fails
    call = asyncio.ensure_future(service.call("Do", "a", key=new_key()))
    await began.wait()

    async def lapsed() -> bool:
        return (await service.the_record()).lapsed

    await until(lapsed)
    await some_rounds(service)
    assert (await service.the_record()).state is State.RUNNING
    service.store.renew = renew
    go.open()
    blocked.set()
    assert ((await call).text, (await call).mark) == ("stepped", "executed")
