"""The load: a process that makes calls from many callers at once, and looks at every reply."""

import asyncio
import itertools
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

from bench.cases import CASES, Case
from bench.http2 import Call, Connection
from bench.processes import stay_on_cpus, take_orders

CALLERS = 64
CONNECTIONS = 4
_STORED_PER_CALLER = 16


class Burst:
    """Calls to one server for a while; those that end within the measured part of it count."""

    def __init__(self, keys: Iterator[str | None], *, warm_up: float, seconds: float, most: int | None = None) -> None:
        self._keys = keys
        self._left = most
        now = time.perf_counter()
        self._from, self._until = now + warm_up, now + warm_up + seconds
        self._cpu_from: float | None = None
        self._cpu_until = 0.0
        self.calls = 0
        """All of them, those of the warm-up and the end included."""
        self.failed: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.bodies: dict[str | None, bytes] = {}
        """The reply of each key, for keys whose outcome is to be stored."""
        self.expected: dict[str | None, bytes] | None = None
        self.took: list[float] = []

    def next_call(self) -> Call | None:
        """For a caller that has nothing to do."""
        if self._left is not None:
            if not self._left:
                return None
            self._left -= 1
        elif time.perf_counter() >= self._until:
            return None
        return Call(next(self._keys))

    def ended(self, call: Call) -> None:
        """Looks at a reply and counts it."""
        self.calls += 1
        self._look(call)
        if call.ended >= self._from:
            if self._cpu_from is None:
                self._cpu_from = time.process_time()
            if call.ended < self._until:
                self._cpu_until = time.process_time()
                self.took.append(call.ended - call.started)

    def _look(self, call: Call) -> None:
        code = call.headers.get(b"grpc-status")
        if code != b"0":
            message = call.headers.get(b"grpc-message", b"").decode(errors="replace")
            self.failed[f"status {code!r}: {message}"] += 1
            return
        self.statuses[call.headers.get(b"idempotency-status", b"").decode()] += 1
        if self.expected is None:
            if self._left is not None:
                self.bodies[call.key] = call.body
        elif self.expected[call.key] != call.body:
            self.failed["a replay that differs from the first reply"] += 1

    def result(self, seconds: float) -> dict[str, Any]:
        """What came out, as JSON takes it."""
        took = sorted(self.took)
        return {
            "calls": self.calls,
            "failed": dict(self.failed),
            "statuses": dict(self.statuses),
            "throughput": len(took) / seconds,
            "p50": took[len(took) // 2] if took else 0.0,
            "p99": took[len(took) * 99 // 100] if took else 0.0,
            "cpu": (self._cpu_until - (self._cpu_from or 0.0)) / seconds,
        }


class Load:
    """Takes the orders."""

    def __init__(self) -> None:
        self._run = uuid.uuid4().hex[:24]
        self._numbers = itertools.count()
        self._stored: dict[int, dict[str | None, bytes]] = {}

    async def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        """Either stores outcomes for later replays or measures for so many seconds."""
        case = next(case for case in CASES if case.name == order["case"])
        port = order["port"]
        if order["do"] == "store":
            burst = Burst(self._unique(), warm_up=0, seconds=0, most=CALLERS * _STORED_PER_CALLER)
            await self._play(burst, case, port)
            self._stored[port] = burst.bodies
            return burst.result(1)
        keys = {"none": itertools.repeat(None), "unique": self._unique()}.get(case.keys)
        stored = self._stored.get(port)
        if keys is None:
            assert stored is not None
            keys = itertools.cycle(stored)
        burst = Burst(keys, warm_up=order["warm_up"], seconds=order["seconds"])
        if order["exact"]:
            burst.expected = stored
        await self._play(burst, case, port)
        return burst.result(order["seconds"])

    def _unique(self) -> Iterator[str | None]:
        return (f"{self._run}-{number:011d}" for number in self._numbers)

    async def _play(self, burst: Burst, case: Case, port: int) -> None:
        def connection() -> Connection:
            callers = CALLERS // CONNECTIONS
            return Connection(case.method, case.request, callers=callers, next_call=burst.next_call, ended=burst.ended)

        loop = asyncio.get_running_loop()
        made = [await loop.create_connection(connection, "127.0.0.1", port) for _ in range(CONNECTIONS)]
        await asyncio.gather(*(each.closed for _, each in made))


if __name__ == "__main__":
    stay_on_cpus()
    asyncio.run(take_orders(Load().answer))
