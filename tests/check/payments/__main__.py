"""A server of payments: ``python -m tests.check.payments KIND --ledger FILE``.

It prints ``listening on HOST:PORT`` when it is ready. A KIND is ``aio`` or ``sync`` (behind the library's interceptor),
``bare``, ``dict``, ``request-id``, ``guard``, or a fault of that guard or of a guard of streams.
"""

import argparse
import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection
from tests.harness.handlers import Method, generic_handler
from tests.harness.servers import Server, interceptor_of

from grpc_idempotency import Caller, Policy, aio, store_from_url

from .guards import FAULTS, STREAM_FAULTS, Dict, Failed, Guard, StreamGuard, bare
from .ledger import Ledger
from .protos import SERVICE, ListRequest, ListResponse, Payment, PayRequest

BEFORE, AFTER = 0.005, 0.025
"""Seconds that a payment takes before and after its effect."""
_POLICY = Policy(lease=timedelta(seconds=1), renew_every=timedelta(milliseconds=200))
"""A lease that a test can wait for."""


class Handlers:
    """The service's handlers. A guard of the tests stands inside them, the interceptor around them."""

    def __init__(self, ledger: Ledger, guard: Callable[..., Any], streams: StreamGuard | None) -> None:
        self._ledger, self._guard, self._streams = ledger, guard, streams

    async def pay(self, method: str, request: Any, context: Any) -> Any:
        try:
            return await self._guard(method, request, context, self._paid)
        except Failed as failed:
            await context.abort(failed.code, str(failed), (("reason", "payer"),))

    async def _paid(self, request: Any) -> Any:
        if not request.payer:
            raise Failed(grpc.StatusCode.INVALID_ARGUMENT, "a payer is missing")
        if request.payer == "nobody":
            raise Failed(grpc.StatusCode.NOT_FOUND, "there is no such payer")
        await asyncio.sleep(BEFORE)
        payment = self._ledger.pay(request)
        await asyncio.sleep(AFTER)
        return payment

    async def pay_all(self, requests: AsyncIterator[Any], context: Any) -> Any:
        if self._streams:
            return await self._streams.requests(requests, context, self._all_paid)
        return self._sum([await self._paid(one) async for one in requests])

    async def _all_paid(self, requests: Sequence[Any]) -> Any:
        return self._sum([await self._paid(one) for one in requests])

    def _sum(self, payments: Sequence[Any]) -> Any:
        return Payment(id=" ".join(one.id for one in payments))

    async def pay_in_parts(self, request: Any, context: Any) -> AsyncIterator[Any]:
        parts = self._streams.replies(request, context, self._parts) if self._streams else self._parts(request)
        async for part in parts:
            yield part

    async def _parts(self, request: Any) -> AsyncIterator[Any]:
        yield await self._paid(request)
        for part in range(3):
            await asyncio.sleep(BEFORE)
            yield Payment(id=f"part {part}")

    async def haggle(self, requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[Any]:
        async for one in requests:
            yield await self._paid(one)

    async def listed(self, request: Any, _context: Any) -> Any:
        return self._ledger.listed(request)


def _methods(handlers: Handlers) -> dict[str, Method]:
    pay = partial(Method, request=PayRequest, reply=Payment)
    return {
        "Pay": pay(run=partial(handlers.pay, "Pay")),
        "Refund": pay(run=partial(handlers.pay, "Refund")),
        "PayAll": pay(run=handlers.pay_all, takes_stream=True),
        "PayInParts": pay(run=handlers.pay_in_parts, gives_stream=True),
        "Haggle": pay(run=handlers.haggle, takes_stream=True, gives_stream=True),
        "List": Method(run=handlers.listed, request=ListRequest, reply=ListResponse),
    }


def _caller(caller: Caller) -> str:
    return str(dict(caller.metadata).get("caller", "everybody"))


def _credentials(folder: Path) -> grpc.ServerCredentials:
    pair = ((folder / "server.key").read_bytes(), (folder / "server.pem").read_bytes())
    return grpc.ssl_server_credentials([pair], (folder / "ca.pem").read_bytes(), require_client_auth=True)


def _guard(kind: str) -> Callable[..., Any]:
    if kind in FAULTS:
        return Guard({kind})
    if kind == "dict":
        return Dict()
    return Guard(header=kind == "guard") if kind in ("guard", "request-id") else bare


async def serve(given: argparse.Namespace) -> None:
    interceptors = []
    kind = "sync" if given.kind == "sync" else "async"
    if given.kind in ("aio", "sync"):
        url = f"sqlite:///{given.store}" if given.store else "memory:"
        store: Any = store_from_url(url) if kind == "sync" else aio.store_from_url(url)
        interceptors = [interceptor_of(kind, store, policy=_POLICY, principal=_caller)]
    streams = StreamGuard(given.kind) if given.kind in STREAM_FAULTS else None
    handlers = Handlers(Ledger(given.ledger, given.lag), _guard(given.kind), streams)
    server = Server(kind, interceptors, workers=32)
    for interceptor in interceptors:
        interceptor.attach(server.real)
    server.add(generic_handler(kind, _methods(handlers), SERVICE))
    if not given.without_reflection:
        reflection.enable_server_reflection((SERVICE, reflection.SERVICE_NAME), server.real)
    if given.also:
        server.real.add_insecure_port(given.also)
    await server.start(given.tls and _credentials(given.tls), port=given.port)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    if given.pid:
        given.pid.write_text(str(os.getpid()))
    print(f"listening on {server.target}", flush=True)
    await stop.wait()
    await server.stop(grace=5)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["aio", "sync", "bare", "dict", "request-id", "guard", *FAULTS, *STREAM_FAULTS])
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--pid", type=Path)
    parser.add_argument("--lag", type=float, default=0.0, help="seconds after which a payment is listed")
    parser.add_argument("--also", help="another address to listen on")
    parser.add_argument(
        "--tls", type=Path, help="a folder with server.pem, server.key and ca.pem, of a server for mTLS"
    )
    parser.add_argument("--without-reflection", action="store_true")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
