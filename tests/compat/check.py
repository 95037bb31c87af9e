"""Runs in a row's own venv, beside the stubs that were made for it: keyed calls to a server of one kind.

Its arguments are the kind and the URL of an empty store. The kind is ``aio``, ``threads``, or ``kit``, where the calls
are those of ``grpc-idempotency check``.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import grpc
import grpc.aio
from google.protobuf.internal import api_implementation
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry

import grpc_idempotency
from grpc_idempotency import aio, otel, prometheus
from grpc_idempotency.__main__ import main as command
from grpc_idempotency.metrics import CALL_DURATION, Metrics

pb2: Any = import_module("payments_pb2")
stubs: Any = import_module("payments_pb2_grpc")

KEY, WRONG_KEY = "payment-key", "idempotency-key"


class Runs:
    """Counts the runs of the handlers; each gives another number."""

    def __init__(self) -> None:
        self.runs = 0

    def run(self, cents: int) -> Any:
        self.runs += 1
        return pb2.Receipt(cents=cents, number=self.runs)


class Payments(Runs):
    """Handlers for ``grpc.server``."""

    def Charge(self, request: Any, _context: Any) -> Any:
        return self.run(request.cents)

    def Statement(self, request: Any, _context: Any) -> Iterator[Any]:
        for cents in range(request.cents):
            yield self.run(cents)

    def Deposit(self, requests: Iterator[Any], _context: Any) -> Any:
        return self.run(sum(request.cents for request in requests))


class AioPayments(Runs):
    """The same for ``grpc.aio.server``."""

    async def Charge(self, request: Any, _context: Any) -> Any:
        return self.run(request.cents)

    async def Statement(self, request: Any, _context: Any) -> AsyncIterator[Any]:
        for cents in range(request.cents):
            yield self.run(cents)

    async def Deposit(self, requests: AsyncIterator[Any], _context: Any) -> Any:
        return self.run(sum([request.cents async for request in requests]))


def check(target: str, payments: Runs) -> None:
    """What has to hold, whatever the versions."""
    with grpc.insecure_channel(target) as channel:
        stub = stubs.PaymentsStub(channel)
        request, later = pb2.ChargeRequest(cents=500), pb2.ChargeRequest(cents=500)
        later.sent_at.seconds = 5
        first, marked = unary(stub.Charge, request, key="a")
        again, marked_again = unary(stub.Charge, later, key="a")
        assert (marked, marked_again) == ("executed", "replayed")
        assert first == again == pb2.Receipt(cents=500, number=1)
        assert reason(stub.Charge, pb2.ChargeRequest(cents=501), ((KEY, "a"),)) == "KEY_REUSED"
        assert reason(stub.Charge, request, ((WRONG_KEY, "b"),)) == "KEY_REQUIRED"
        assert payments.runs == 1

        three = pb2.ChargeRequest(cents=3)
        told, marked = stream(stub.Statement, three, key="a")
        told_again, marked_again = stream(stub.Statement, three, key="a")
        assert (marked, marked_again) == ("executed", "replayed")
        assert told == told_again
        assert [receipt.cents for receipt in told] == [0, 1, 2]
        assert payments.runs == 4

        count = ("idempotency-message-count", "2")
        paid, marked = unary(stub.Deposit, iter([request, later]), count, key="a")
        paid_again, marked_again = unary(stub.Deposit, iter([request, later]), count, key="a")
        assert (marked, marked_again) == ("executed", "replayed")
        assert paid == paid_again == pb2.Receipt(cents=1000, number=5)
        assert payments.runs == 5


def unary(method: Any, request: Any, *metadata: tuple[str, str], key: str) -> tuple[Any, str]:
    reply, call = method.with_call(request, metadata=((KEY, key), *metadata), timeout=20)
    return reply, str(dict(call.trailing_metadata())["idempotency-status"])


def stream(method: Any, request: Any, *, key: str) -> tuple[list[Any], str]:
    call = method(request, metadata=((KEY, key),), timeout=20)
    return list(call), str(dict(call.trailing_metadata())["idempotency-status"])


def reason(method: Any, request: Any, metadata: Sequence[tuple[str, str]]) -> str:
    """Why the call is refused, as the details of its status say."""
    try:
        method(request, metadata=metadata, timeout=20)
    except grpc.RpcError as exc:
        error: Any = exc
        status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        return str(info.reason)
    raise AssertionError("it was not refused")


class Watched:
    """All observers, with their exporters."""

    def __init__(self) -> None:
        self._metrics, self._registry, self._reader = Metrics(), CollectorRegistry(), InMemoryMetricReader()
        prometheus.register(self._metrics, self._registry)
        otel.instrument(self._metrics, MeterProvider(metric_readers=[self._reader], shutdown_on_exit=False))
        self.observers: list[Any] = [self._metrics, otel.Tracing()]

    def check(self) -> None:
        """Each exporter has all calls."""
        calls = sum(sum(one.counts) for one in self._metrics.distributions(CALL_DURATION))
        assert calls == 8
        assert sum(self._samples("grpc_idempotency_calls_total")) == calls
        assert sum(self._samples("grpc_idempotency_call_duration_seconds_count")) == calls
        data: Any = self._reader.get_metrics_data()
        [scope] = data.resource_metrics[0].scope_metrics
        [durations] = [one for one in scope.metrics if one.name == CALL_DURATION.name]
        assert sum(point.count for point in durations.data.data_points) == calls

    def _samples(self, name: str) -> list[float]:
        families = self._registry.collect()
        return [sample.value for family in families for sample in family.samples if sample.name == name]


async def on_aio(url: str) -> None:
    """A ``grpc.aio`` server."""
    watched = Watched()
    interceptor = aio.IdempotencyInterceptor(aio.store_from_url(url), observers=watched.observers)
    server = grpc.aio.server(interceptors=[interceptor])
    interceptor.attach(server)
    payments = AioPayments()
    stubs.add_PaymentsServicer_to_server(payments, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        await asyncio.get_running_loop().run_in_executor(None, check, f"127.0.0.1:{port}", payments)
    finally:
        await server.stop(None)
    watched.check()


def on_threads(url: str) -> None:
    """A ``grpc.server``."""
    watched = Watched()
    store = grpc_idempotency.store_from_url(url)
    interceptor = grpc_idempotency.IdempotencyInterceptor(store, observers=watched.observers)
    server = grpc.server(ThreadPoolExecutor(8), interceptors=[interceptor])
    interceptor.attach(server)
    payments = Payments()
    stubs.add_PaymentsServicer_to_server(payments, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        check(f"127.0.0.1:{port}", payments)
    finally:
        server.stop(None).wait()
    watched.check()


def on_kit(url: str) -> None:
    """The kit, which learns the types by reflection, and prints its table."""
    interceptor = grpc_idempotency.IdempotencyInterceptor(grpc_idempotency.store_from_url(url))
    server = grpc.server(ThreadPoolExecutor(32), interceptors=[interceptor])
    interceptor.attach(server)
    stubs.add_PaymentsServicer_to_server(Payments(), server)
    reflection.enable_server_reflection(("compat.payments.Payments", reflection.SERVICE_NAME), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    calls = ("--method", "compat.payments.Payments/Charge", "--request", '{"cents": 5}', "--header", KEY)
    others = ("--other-body", '{"cents": 6}', "--only", "duplicate", "--only", "other-body", "--only", "*key*")
    try:
        assert command(["check", f"127.0.0.1:{port}", *calls, *others]) == 0
    finally:
        server.stop(None).wait()


def main(kind: str, url: str) -> None:
    """Checks one kind of server on one store."""
    assert api_implementation.Type() == os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"]
    if kind == "aio":
        asyncio.run(on_aio(url))
    elif kind == "kit":
        on_kit(url)
    else:
        on_threads(url)


if __name__ == "__main__":
    main(*sys.argv[1:])
