"""The servers of a campaign, one of each kind, with stores on files of their own; all programs behind a few methods."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, IdempotencyInterceptor, Policy, aio

from .grammar import EFFECTS, HOWS, Case
from .handlers import AsyncRun, ThreadRun
from .ledger import Ledger
from .stores import AsyncFailingStore, FailingStore, Faults, limited_files

LEASE = timedelta(seconds=1)
_LIMIT = timedelta(seconds=0.35)
_DRAIN = timedelta(seconds=5)


def policies() -> dict[str, Policy]:
    """Returns the policies by method, for every method of :attr:`.Case.method`."""
    found = {}
    for how in HOWS:
        for effects in EFFECTS:
            for kind in ("unary", "stream"):
                found[f"/misuse.Misuse/{how.replace(' ', '')}_{effects}_{kind}"] = Policy(
                    effects=Effects(effects),
                    lease=LEASE,
                    renew_every=LEASE / 4,
                    wait=timedelta(seconds=4),
                    execution_limit=_LIMIT,
                    max_tries=3,
                    retry_delay=timedelta(milliseconds=20),
                )
    return found


def handlers(run: Callable[[str, bool, Any, Any], Any], hows: tuple[str, ...]) -> grpc.GenericRpcHandler:
    """Returns the handlers of all methods of these kinds; ``run(how, streams, request, context)`` plays a program."""
    methods: dict[str, Any] = {}
    codec = {"request_deserializer": StringValue.FromString, "response_serializer": StringValue.SerializeToString}
    for how in hows:
        for effects in EFFECTS:
            for kind in ("unary", "stream"):
                make: Any = (
                    grpc.unary_stream_rpc_method_handler if kind == "stream" else grpc.unary_unary_rpc_method_handler
                )
                behaviour = _behaviour(run, how, kind == "stream")
                methods[f"{how.replace(' ', '')}_{effects}_{kind}"] = make(behaviour, **codec)
    return grpc.method_handlers_generic_handler("misuse.Misuse", methods)


def _behaviour(run: Callable[[str, bool, Any, Any], Any], how: str, streams: bool) -> Any:
    async def unary(request: Any, context: Any) -> Any:
        return await run(how, False, request, context)

    async def stream(request: Any, context: Any) -> Any:
        async for message in run(how, True, request, context):
            yield message

    def plain_unary(request: Any, context: Any) -> Any:
        return run(how, False, request, context)

    def plain_stream(request: Any, context: Any) -> Any:
        yield from run(how, True, request, context)

    if how == "aio":
        return stream if streams else unary
    return plain_stream if streams else plain_unary


class AioServer:
    """A ``grpc.aio.server`` in a loop and thread of its own."""

    hows = HOWS[:2]

    def __init__(self, path: Path, cases: Mapping[str, Case], ledger: Ledger, faults: Faults) -> None:
        self.path = path
        self._cases = cases
        self._ledger = ledger
        self._faults = faults
        self.port = 0
        self.left: list[str] = []
        """What was left when it had stopped."""
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="aio server")
        self._thread.start()
        self._ready.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_default_executor(ThreadPoolExecutor(64))
        store = AsyncFailingStore(self.path, self._faults)
        with limited_files():
            await store.open()
        interceptor = aio.IdempotencyInterceptor(store, methods={**_of(self.hows)}, drain_limit=_DRAIN)
        server = grpc.aio.server(interceptors=[interceptor])
        interceptor.attach(server)

        def run(how: str, streams: bool, request: Any, context: Any) -> Any:
            case = self._cases[request.value]
            if how == "aio":
                asynchronous = AsyncRun(case, self._ledger, store, context)
                return asynchronous.stream() if streams else asynchronous.unary()
            plain = ThreadRun(case, self._ledger, store, context, self._loop)
            return plain.stream() if streams else plain.unary()

        server.add_generic_rpc_handlers((handlers(run, self.hows),))
        self.port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        self._ready.set()
        await self._stopping.wait()
        await server.stop(1)
        self.left = [repr(task) for task in asyncio.all_tasks() if "grpc_idempotency" in repr(task.get_coro())]


class SyncServer:
    """A ``grpc.server``."""

    hows = HOWS[2:]

    def __init__(self, path: Path, cases: Mapping[str, Case], ledger: Ledger, faults: Faults) -> None:
        self.path = path
        self.left: list[str] = []
        store = FailingStore(path, faults)
        with limited_files():
            store.open()
        interceptor = IdempotencyInterceptor(store, methods=_of(self.hows), drain_limit=_DRAIN, max_waiters=16)
        self._server = grpc.server(ThreadPoolExecutor(64), interceptors=[interceptor])
        interceptor.attach(self._server)

        def run(_how: str, streams: bool, request: Any, context: Any) -> Any:
            plain = ThreadRun(cases[request.value], ledger, store, context)
            return plain.stream() if streams else plain.unary()

        self._server.add_generic_rpc_handlers((handlers(run, self.hows),))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def stop(self) -> None:
        self._server.stop(1).wait()


def _of(hows: tuple[str, ...]) -> dict[str, Policy]:
    names = tuple(f"/misuse.Misuse/{how.replace(' ', '')}_" for how in hows)
    return {name: policy for name, policy in policies().items() if name.startswith(names)}
