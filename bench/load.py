"""The load: a process that makes calls from many callers at once, and checks every reply."""

import asyncio
import itertools
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from google.protobuf.wrappers_pb2 import StringValue
from google.type.money_pb2 import Money

from bench.cases import Service
from bench.http2 import Call, Connection, LoadError
from bench.processes import stay_on_cpus, take_orders_blocking
from shop.orders.v1.orders_pb2 import CreateOrderRequest, OrderItem

CONNECTIONS = 4
"""The number of connections, unless there are fewer callers."""
_ECHO = StringValue(value="a request of some forty characters, as is usual").SerializeToString()
_ORDER = CreateOrderRequest(
    customer_id="cust_123",
    items=[OrderItem(sku=f"SKU00{n}", quantity=n) for n in (1, 2, 3)],
    total_amount=Money(currency_code="USD", units=55, nanos=990_000_000),
).SerializeToString()
METHODS: Mapping[Service, tuple[str, bytes]] = MappingProxyType(
    {"echo": ("/bench.Echo/Say", _ECHO), "order": ("/bench.Orders/CreateOrder", _ORDER)}
)
"""The full name of each service's only method, and the request of all its calls."""


class Burst:
    """Calls to one server: ``most`` of them, or for a time. Calls that end within the measured time are counted."""

    def __init__(
        self,
        keys: Iterator[str | None],
        *,
        warm_up: float = 0,
        seconds: float = 0,
        most: int | None = None,
        keep: bool = False,
        expected: dict[str | None, bytes] | None = None,
    ) -> None:
        self._keys = keys
        self._left = most
        self._seconds = seconds
        self._keep = keep
        self._expected = expected
        now = time.perf_counter()
        self._from, self._until = now + warm_up, now + warm_up + seconds
        self._cpu_from: float | None = None
        self._cpu_until = 0.0
        self._calls = 0
        self._failed: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self.bodies: dict[str | None, bytes] = {}
        """The reply of each key, if replies are kept."""
        self._took: list[float] = []

    def next_call(self) -> Call | None:
        """Returns the next call of a caller; ``None`` if there is none, or the time is up."""
        if self._left is not None:
            if not self._left:
                return None
            self._left -= 1
        elif time.perf_counter() >= self._until:
            return None
        try:
            return Call(next(self._keys))
        except StopIteration:
            self._failed["no stored key was left"] = 1
            return None

    def ended(self, call: Call) -> None:
        """Checks a reply, and counts it."""
        self._calls += 1
        self._look(call)
        if call.ended >= self._from:
            if self._cpu_from is None:
                self._cpu_from = time.process_time()
            if call.ended < self._until:
                self._cpu_until = time.process_time()
                self._took.append(call.ended - call.started)

    def _look(self, call: Call) -> None:
        code = call.headers.get(b"grpc-status")
        if code != b"0":
            message = call.headers.get(b"grpc-message", b"").decode(errors="replace")
            self._failed[f"status {code!r}: {message}"] += 1
            return
        self._statuses[call.headers.get(b"idempotency-status", b"").decode()] += 1
        if self._keep:
            self.bodies[call.key] = call.body
        if self._expected is not None and self._expected[call.key] != call.body:
            self._failed["a replay that differs from the first reply"] += 1

    def result(self) -> dict[str, Any]:
        """Returns the results, for JSON."""
        took = sorted(self._took)
        seconds = self._seconds or 1.0
        return {
            "calls": self._calls,
            "failed": dict(self._failed),
            "statuses": dict(self._statuses),
            "throughput": len(took) / seconds,
            "p50": took[len(took) // 2] if took else 0.0,
            "p99": took[len(took) * 99 // 100] if took else 0.0,
            "cpu": (self._cpu_until - (self._cpu_from or 0.0)) / seconds,
        }


class Load:
    """Carries out the orders of the process that measures."""

    def __init__(self) -> None:
        self._run = uuid.uuid4().hex[:24]
        self._numbers = itertools.count()
        self._stored: dict[str, dict[str | None, bytes]] = {}
        """The replies of each server, by the server's name."""

    def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        """Makes ``count`` first calls, or measures for a number of seconds: one server, or replays of a second one."""
        method, request = METHODS[order["service"]]
        if order["do"] == "elsewhere":
            first = Burst(self._unique(), warm_up=order["warm_up"], seconds=order["seconds"], keep=True)
            replay = Burst(iter(()), warm_up=order["warm_up"], seconds=order["seconds"], expected=first.bodies)
            asyncio.run(_play_elsewhere(first, replay, method, request, order["ports"]))
            return {"first": first.result(), "replay": replay.result()}
        if order["do"] == "make":
            burst = Burst(self._unique(), most=order["count"], keep=order["keep"])
        else:
            replays = order["keys"] in ("hot", "cold")
            burst = Burst(
                self._keys(order["keys"], order["server"]),
                warm_up=order["warm_up"],
                seconds=order["seconds"],
                expected=self._stored[order["server"]] if replays else None,
            )
        asyncio.run(_play(burst, method, request, order["port"], order["callers"]))
        if burst.bodies:
            self._stored[order["server"]] = burst.bodies
        return burst.result()

    def _keys(self, kind: str, server: str) -> Iterator[str | None]:
        if kind == "none":
            return itertools.repeat(None)
        if kind == "unique":
            return self._unique()
        stored = self._stored[server]
        return itertools.cycle(stored) if kind == "hot" else iter(stored)

    def _unique(self) -> Iterator[str | None]:
        return (f"{self._run}-{number:011d}" for number in self._numbers)


async def _play(burst: Burst, method: str, request: bytes, port: int, callers: int) -> None:
    """Makes the calls of a burst from all callers, spread over the connections."""
    connections = min(CONNECTIONS, callers)
    shares = [callers // connections + (number < callers % connections) for number in range(connections)]

    def connection(share: int) -> Connection:
        return Connection(method, request, callers=share, next_call=burst.next_call, ended=burst.ended)

    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(partial(connection, share), "127.0.0.1", port) for share in shares]
    await asyncio.gather(*(each.closed for _, each in made))


async def _play_elsewhere(first: Burst, replay: Burst, method: str, request: bytes, ports: list[int]) -> None:
    """Makes each call to the first port, and then, once its reply has come, to the second one with the same key."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Queue[Call | None] = asyncio.Queue()

    def connection() -> Connection:
        return Connection(method, request, callers=0, next_call=lambda: None, ended=ended.put_nowait)

    connections = [(await loop.create_connection(connection, "127.0.0.1", port))[1] for port in ports]
    for each in connections:
        each.closed.add_done_callback(lambda _: ended.put_nowait(None))

    async def made(connection: Connection, call: Call) -> Call:
        connection.start(call)
        reply = await ended.get()
        if reply is None:
            raise LoadError("a connection broke")
        return reply

    while (call := first.next_call()) is not None:
        first.ended(await made(connections[0], call))
        replay.ended(await made(connections[1], Call(call.key)))
    for each in connections:
        each.close()


if __name__ == "__main__":
    stay_on_cpus()
    take_orders_blocking(Load().answer)
