"""The longest durations that a policy takes are ones that work."""

import asyncio
from datetime import timedelta

import grpc
import pytest

from grpc_idempotency import Effects, Policy

from ..harness.handlers import Blocking
from ..harness.replies import new_key
from ..harness.servers import Servers
from ..harness.waiting import until

LONGEST = timedelta(days=36_525)
EVERYTHING = {
    "ttl": LONGEST,
    "lease": LONGEST,
    "renew_every": LONGEST / 2,
    "wait": LONGEST,
    "execution_limit": LONGEST,
    "retry_delay": LONGEST,
}


@pytest.mark.parametrize("effects", [Effects.OPAQUE, Effects.REPEATABLE])
async def test_a_hundred_years_of_everything(serve: Servers, effects: Effects) -> None:
    """A call, its duplicate, its replay, a list, a sweep and a stop, where every duration is the longest there is."""
    blocking = Blocking()
    policy = Policy(effects=effects, **EVERYTHING)  # type: ignore[arg-type]  # durations all
    service = await serve({"Do": blocking}, policy=policy, sweep_every=LONGEST, drain_limit=LONGEST)
    key = new_key()
    first = asyncio.create_task(service.call("Do", key=key))
    await blocking.began.wait()
    second = asyncio.create_task(service.call("Do", key=key))
    await until(lambda: service.is_followed(2))
    blocking.go.open()
    assert [(await one).mark for one in (first, second)] == ["executed", "attached"]
    assert (await service.call("Do", key=key)).mark == "replayed"
    record = await service.the_record()
    assert record.completed_at is not None
    assert record.expires_at == record.completed_at + LONGEST
    assert (await service.store.sweep()).deleted == 0
    await service.stop()
    assert (await first).status is grpc.StatusCode.OK
