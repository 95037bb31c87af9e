"""Operators' calls on a server with many operations: each reads about what it returns, and counts read no record."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from grpc_idempotency.records import State
from grpc_idempotency.testing import OUTCOME, TTL, a_claim

from .conftest import HandClock, Make

MANY = 10_000
AT_ONCE = 500
PAGE = 50
METHODS = [f"/shop.v1.Service{n}/Method" for n in range(8)]
RARE = "/shop.v1.Rare/Method"
LISTS: list[dict[str, Any]] = [
    {},
    {"method": METHODS[3]},
    {"method": RARE},
    {"state": State.HELD},
    {"stuck": True},
    {"state": State.COMPLETED, "method": METHODS[3]},
    {"state": State.RUNNING, "method": RARE},
]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Watched:
    """Counts the commands that the server performs."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def during(self, call: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> dict[str, int]:
        """Returns how often each command was performed during a call."""
        self._client.config_resetstat()
        await call(*args, **options)
        stats: dict[str, dict[str, int]] = self._client.info("commandstats")
        return {name.removeprefix("cmdstat_"): told["calls"] for name, told in stats.items()}


async def test_a_million_would_do(make: Make, client: Any, clock: HandClock) -> None:
    """A list of 50 reads some 50 records, by whatever it is limited to. Counts read none. Nothing is scanned.

    The same is true when nearly all have expired and are not swept yet.
    """
    store, watched = make(_clock=clock), Watched(client)

    async def put(n: int) -> None:
        claim = a_claim(method=RARE if n in (5, 6) else METHODS[n % 8])
        assert await store.claim(claim) is None
        if n % 100 == 5:
            assert await store.hold(claim.name, claim.fence, "in doubt")
        elif n % 100 != 6:
            assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)

    for start in range(0, MANY, AT_ONCE):
        await asyncio.gather(*map(put, range(start, start + AT_ONCE)))
    for passed in (timedelta(0), TTL):
        clock.elapse(passed)
        for chosen, newest_first in itertools.product(LISTS, (False, True)):
            done = await watched.during(store.list, limit=PAGE, newest_first=newest_first, **chosen)
            assert done.get("get", 0) < PAGE * 2, (chosen, done)
            assert not {name for name in done if "scan" in name or name == "keys"}
        one = (await store.list(limit=1))[0].name.hex()
        assert (await watched.during(store.find, one[:6])).get("get", 0) < 5
        for completed in (False, True):
            assert "get" not in await watched.during(store.count, completed=completed)
        assert "get" not in await watched.during(store.methods)
