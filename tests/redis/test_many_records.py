"""Operators' calls on a server with many operations: each reads about what it returns, and counts read no record."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from grpc_idempotency.records import State
from grpc_idempotency.testing import OUTCOME, TTL, a_claim

from .conftest import Make

MANY = 10_000
AT_ONCE = 500
PAGE = 50
METHODS = [f"/shop.v1.Service{n}/Method" for n in range(8)]
RARE = "/shop.v1.Rare/Method"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Watched:
    """Counts the commands that the server performs."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def during(self, call: Callable[[], Awaitable[Any]]) -> dict[str, int]:
        """Returns how often each command was performed during a call."""
        self._client.config_resetstat()
        await call()
        stats: dict[str, dict[str, int]] = self._client.info("commandstats")
        return {name.removeprefix("cmdstat_"): told["calls"] for name, told in stats.items()}


async def test_a_million_would_do(make: Make, client: Any) -> None:
    """A list of 50 reads some 50 records, by whatever it is limited to. Counts read none. Nothing is scanned."""
    store, watched = make(), Watched(client)

    async def put(n: int) -> None:
        claim = a_claim(method=RARE if n in (5, 6) else METHODS[n % 8])
        assert await store.claim(claim) is None
        if n % 100 == 5:
            assert await store.hold(claim.name, claim.fence, "in doubt")
        elif n % 100 != 6:
            assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)

    for start in range(0, MANY, AT_ONCE):
        await asyncio.gather(*map(put, range(start, start + AT_ONCE)))
    lists: list[dict[str, Any]] = [{}, {"method": METHODS[3]}, {"method": RARE}, {"state": State.HELD}, {"stuck": True}]
    lists += [{"state": State.COMPLETED, "method": METHODS[3]}, {"state": State.RUNNING, "method": RARE}]
    for chosen in lists:
        for newest_first in (False, True):
            done = await watched.during(lambda: store.list(limit=PAGE, newest_first=newest_first, **chosen))  # noqa: B023
            assert done.get("get", 0) < PAGE * 2, (chosen, done)
            assert not {name for name in done if "scan" in name or name == "keys"}
    one = (await store.list(limit=1))[0].name.hex()
    done = await watched.during(lambda: store.find(one[:6]))
    assert done.get("get", 0) < 5
    for completed in (False, True):
        done = await watched.during(lambda: store.count(completed=completed))  # noqa: B023  # it is called here
        assert "get" not in done
