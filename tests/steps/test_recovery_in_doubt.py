"""Operations that nobody may run again are held by a live server, and no others are (5.4)."""

import asyncio
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, Policy, SQLiteStore, State, StoreUnavailable

from ..harness.handlers import SERVICE
from ..harness.replies import new_key, text
from ..harness.servers import Servers
from ..harness.waiting import Gate, ms, until
from .recovery import LEASE, SHORT, Stops, dead, held, some_rounds

pytestmark = pytest.mark.usefixtures("promptly")


@pytest.mark.parametrize("recover", [None, False, True])
async def test_what_is_in_doubt_is_held(
    serve: Servers, left_behind: SQLiteStore, caplog: pytest.LogCaptureFixture, recover: bool | None
) -> None:
    """An opaque operation that was running is nobody's to run again: an operator sees it, and can resolve it (5.4)."""
    runs: list[int] = []

    async def do(_request: StringValue, _context: Any) -> StringValue:
        runs.append(1)
        return text("done")

    names = [dead(left_behind, effects=Effects.OPAQUE, stored=stored) for stored in (True, False)]
    await serve({"Do": do}, policy=Policy(recover=recover, **LEASE))
    for name in names:
        await until(lambda name=name: held(left_behind, name))  # type: ignore[misc]  # the default binds it
    assert runs == []

    lines = {f"operation {name.hex()} of /{SERVICE}/Do is held until an operator resolves it" for name in names}

    async def told() -> bool:
        return lines <= {record.getMessage().partition(": ")[0] for record in caplog.records}

    await until(told)  # each line comes when its record is held
    for record in left_behind.list(state=State.HELD):
        assert "its server stopped" in record.reason
        assert left_behind.resolve(record.name, record.fence, None, ms(1000))


async def test_all_that_is_in_doubt_is_held_at_once(serve: Servers, left_behind: SQLiteStore) -> None:
    """All operations in doubt are held at once, though a server is busy with as many as it can finish (5.4)."""
    go, gate = Gate(), Gate()
    begun: list[int] = []

    async def do(_request: StringValue, _context: Any) -> StringValue:
        begun.append(1)
        gate.open()
        await go.wait()
        return text("done")

    for _ in range(20):
        dead(left_behind)
        dead(left_behind, runs=20)
    names = [dead(left_behind, effects=Effects.OPAQUE) for _ in range(50)]
    await serve({"Do": do}, policy=SHORT)
    await gate.wait()
    for name in names:
        await until(lambda name=name: held(left_behind, name))  # type: ignore[misc]  # the default binds it
    go.open()


async def test_a_record_says_what_its_run_was(serve: Servers, left_behind: SQLiteStore) -> None:
    """A run that began as opaque is held, whatever the method's policy is by now; the reverse is left (4.5, 5.4)."""
    changed, left = dead(left_behind, effects=Effects.OPAQUE), dead(left_behind, "Opaque")

    async def do(_request: StringValue, _context: Any) -> StringValue:
        return text("done")

    service = await serve({"Do": do, "Opaque": do}, policies={"Do": SHORT, "Opaque": Policy(**LEASE)})
    await until(lambda: held(left_behind, changed))
    await some_rounds(service)
    record = left_behind.get(left)
    assert record is not None
    assert (record.state, record.attempts) == (State.RUNNING, 1)


async def test_what_runs_here_is_not_held(serve: Servers) -> None:
    """A server does not hold its own operation, though it could not renew its lease for a while (4.9, 5.4)."""
    handler = Stops()
    service = await serve({"Do": handler}, policy=Policy(**LEASE))
    renew, key = service.store.renew, new_key()

    def fails(*_args: Any) -> Any:
        raise StoreUnavailable("cut off")

    service.store.renew = fails
    call = asyncio.ensure_future(service.call("Do", "a", key=key))
    await handler.began.wait()

    async def lapsed() -> bool:
        return (await service.the_record()).lapsed

    await until(lapsed)
    await some_rounds(service)
    assert (await service.the_record()).state is State.RUNNING
    service.store.renew = renew
    handler.go.open()
    assert ((await call).text, (await call).mark) == ("run 1", "executed")
