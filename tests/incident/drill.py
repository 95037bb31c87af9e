"""An incident as the pages tell it: a server is killed in an opaque call, and an operator resolves the operation.

Two servers share a store. One of them is killed by ``kill -9`` when its handler has already had its effect. The alert's
query is asked of what the other server exports. Then the commands of ``docs/how-to/resolving.md`` are run in their
order.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import promql_parser
import yaml
from prometheus_client.samples import Sample

from grpc_idempotency import Reason, aio, refusal_of
from shop.orders.v1.orders_pb2 import CreateOrderRequest, Order
from shop.orders.v1.orders_pb2_grpc import OrderServiceStub

from ..docs.pages import ROOT, blocks
from ..docs.servers import shell
from ..harness.processes import Process
from ..metrics.scrapes import scraped

PAGE = ROOT / "docs/how-to/resolving.md"
RULES = ROOT / "ops/prometheus/grpc-idempotency.rules.yml"
ALERT = "IdempotencyOperationsHeld"
NAME = "5f0c6ba4"
"""The operation on the page."""
PATIENCE = 60.0
"""Seconds after which a step counts as one that never comes to its end."""

Tell = Callable[[str, float], object]
"""Told what has happened, and how many seconds after the kill."""


class Incident:
    """One incident with its servers, its client and its operator."""

    def __init__(self, folder: Path, kind: str, lease: int, tell: Tell) -> None:
        """Prepares an incident.

        Args:
            folder: Where its files are, among them ``orders.db``, the store of the page.
            kind: The kind of server, ``async`` or ``sync``.
            lease: The lease of operations, in milliseconds.
            tell: Told of each step.
        """
        self.ledger = folder / "ledger"
        self._folder = folder
        self._kind = kind
        self._lease = lease
        self._tell = tell
        self._commands = blocks(PAGE, "sh")[:6]
        self._killed_at = 0.0
        self._metadata = (("idempotency-key", str(uuid.uuid4())),)
        self._request = CreateOrderRequest(customer_id="alice")

    async def play(self) -> float:
        """Plays the incident to its end.

        Returns:
            The seconds from the kill to the client's reply.

        Raises:
            AssertionError: A step did not do what the pages say.
        """
        async with AsyncExitStack() as ends:
            doomed = self._server(ends, "doomed", "hang")
            other = self._server(ends, "other")
            first, second = await doomed.ready(), await other.ready()
            channels = [await ends.enter_async_context(grpc.aio.insecure_channel(at)) for at in (first, second)]
            calling = asyncio.ensure_future(self._call(channels[0]))
            await doomed.line("began")
            doomed.kill()
            self._killed_at = time.monotonic()
            assert (await _failure(calling)).code() is grpc.StatusCode.UNAVAILABLE
            self._say("the server is dead, and its client has heard nothing")
            await self._alert(fires=True)
            self._say("the alert fires")
            refused = await _failure(self._call(channels[1]))
            refusal = refusal_of(refused)
            assert refusal is not None
            assert refusal.reason is Reason.OUTCOME_UNKNOWN
            self._say("the client's retry is refused: its outcome is unknown")
            name = refusal.variables["operation"]
            await asyncio.to_thread(self._operate, name)
            call = self._call(channels[1])
            assert await call == Order(id="order-7")
            assert await aio.status_of(call) == "replayed"
            took = self._say("the client's retry gets the resolved outcome")
            assert "in the ledger" in await asyncio.to_thread(self._run, name, self._commands[3]), "no reason is kept"
            await self._alert(fires=False)
            self._say("the alert ends")
            other.terminate()
            assert await other.ended() == 0
        return took

    def _server(self, ends: AsyncExitStack, name: str, *more: str) -> Process:
        url, told = f"sqlite:///{self._folder}/orders.db", str(self._folder / f"{name}.metrics")
        process = Process(self._kind, url, str(self.ledger), told, str(self._lease), *more, program="orders")
        ends.callback(process.discard)
        return process

    def _call(self, channel: grpc.aio.Channel) -> Any:
        return OrderServiceStub(channel).CreateOrder(self._request, metadata=self._metadata, timeout=PATIENCE)

    def _say(self, what: str) -> float:
        seconds = time.monotonic() - self._killed_at
        self._tell(what, seconds)
        return seconds

    async def _alert(self, *, fires: bool) -> None:
        """Scrapes the server that lives until the query of the alert gives what is expected."""
        url = (self._folder / "other.metrics").read_text()
        query = query_of(ALERT)
        end = time.monotonic() + PATIENCE
        while bool(answer(query, await asyncio.to_thread(scraped, url))) is not fires:
            assert time.monotonic() < end, f"{query} does not change"
            await asyncio.sleep(0.1)

    def _operate(self, name: str) -> None:
        """Runs the commands of the page, in their order."""
        _, explain, listing, showing, _never_happened, completed = self._commands
        assert "operator" in self._run(name, explain)
        listed = self._run(name, listing)
        assert name in listed
        assert "its server stopped" in listed
        self._say("ls has listed it")
        assert name in self._run(name, showing)
        assert self.ledger.read_text() == "order-1 alice\n", "the handler has run twice"
        self._say("show has shown it, and the ledger has its order")
        self._run(name, completed.rstrip() + " --yes\n")
        self._say("resolve has completed it")

    def _run(self, name: str, command: str) -> str:
        """Runs a command of the page, for this operation."""
        return shell(self._commands[0] + command.replace(NAME, name[:12]), self._folder)


async def _failure(call: Any) -> grpc.aio.AioRpcError:
    """Returns the error with which a call ends."""
    try:
        reply = await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError(f"the call should have failed, and was answered {reply}")


def query_of(alert: str) -> str:
    """Returns the query of an alert."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    (query,) = (rule["expr"] for group in groups for rule in group["rules"] if rule["alert"] == alert)
    return str(query)


def answer(query: str, samples: Sequence[Sample]) -> list[float]:
    """Answers a query of the form ``max by (…) (metric{label="value"}) > number``, as Prometheus does."""
    comparison: Any = promql_parser.parse(query)
    assert str(comparison.op) == ">"
    assert str(comparison.lhs.op) == "max"
    selector, by = comparison.lhs.expr, comparison.lhs.modifier.labels
    wanted = {one.name: one.value for one in selector.matchers.matchers}
    groups: dict[tuple[str, ...], float] = {}
    for sample in samples:
        if sample.name == selector.name and wanted.items() <= sample.labels.items():
            group = tuple(sample.labels.get(label, "") for label in by)
            groups[group] = max(groups.get(group, sample.value), sample.value)
    return [value for value in groups.values() if value > comparison.rhs.val]
