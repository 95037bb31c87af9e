"""The servers of a campaign, one of each kind, with stores on files of their own; all programs behind a few methods."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

from grpc_idempotency import Effects, Policy

from ..harness.handlers import Method, generic_handler
from ..harness.servers import Server, answered, interceptor_of
from .grammar import EFFECTS, HOWS, Case
from .handlers import AsyncRun, ThreadRun
from .ledger import Ledger
from .stores import AsyncFailingStore, FailingStore, Faults, limited_files

SERVICE = "misuse.Misuse"
HOWS_OF = {"async": HOWS[:2], "sync": HOWS[2:]}
"""The kinds of handlers that each kind of server has."""
LEASE = timedelta(seconds=1)
_LIMIT = timedelta(seconds=0.35)
_DRAIN = timedelta(seconds=5)
_WORKERS = 64


def policies(hows: tuple[str, ...]) -> dict[str, Policy]:
    """Returns the policies by full method name, for the methods of these kinds of handlers."""
    return {
        f"/{SERVICE}/{name}": Policy(
            effects=Effects(effects),
            lease=LEASE,
            renew_every=LEASE / 4,
            wait=timedelta(seconds=4),
            execution_limit=_LIMIT,
            max_tries=3,
            retry_delay=timedelta(milliseconds=20),
        )
        for name, _, effects, _ in _methods(hows)
    }


def _methods(hows: tuple[str, ...]) -> list[tuple[str, str, str, bool]]:
    """Returns each method of :attr:`.Case.method`: its name, its kind, its effects, and whether it answers a stream."""
    return [
        (f"{how.replace(' ', '')}_{effects}_{'stream' if streams else 'unary'}", how, effects, streams)
        for how in hows
        for effects in EFFECTS
        for streams in (False, True)
    ]


def methods(run: Callable[[str, bool, Any, Any], Any], hows: tuple[str, ...]) -> dict[str, Method]:
    """Returns the methods of these kinds of handlers; ``run(how, streams, request, context)`` plays a program."""
    return {
        name: Method(run=_behaviour(run, how, streams), gives_stream=streams, native=True)
        for name, how, _, streams in _methods(hows)
    }


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


class Served:
    """A server of either kind, in a loop and thread of its own."""

    def __init__(self, kind: str, path: Path, cases: Mapping[str, Case], ledger: Ledger, faults: Faults) -> None:
        self.kind = kind
        self.path = path
        self.target = ""
        self.left: list[str] = []
        """What was left when it had stopped."""
        self._cases = cases
        self._ledger = ledger
        self._faults = faults
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name=f"{kind} server")
        self._thread.start()
        self._ready.wait(10)

    @property
    def hows(self) -> tuple[str, ...]:
        """The kinds of its handlers."""
        return HOWS_OF[self.kind]

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_default_executor(ThreadPoolExecutor(_WORKERS))
        store: Any = (FailingStore if self.kind == "sync" else AsyncFailingStore)(self.path, self._faults)
        with limited_files():
            await answered(store.open())
        options: dict[str, Any] = {"max_waiters": 16} if self.kind == "sync" else {}
        interceptor = interceptor_of(self.kind, store, methods=policies(self.hows), drain_limit=_DRAIN, **options)
        server = Server(self.kind, [interceptor], workers=_WORKERS)
        interceptor.attach(server.real)
        server.add(generic_handler(self.kind, methods(self._run(store), self.hows), SERVICE))
        self.target = await server.start()
        self._ready.set()
        await self._stopping.wait()
        await server.stop(1)
        self.left = [repr(task) for task in asyncio.all_tasks() if "grpc_idempotency" in repr(task.get_coro())]

    def _run(self, store: Any) -> Callable[[str, bool, Any, Any], Any]:
        loop = None if self.kind == "sync" else self._loop

        def run(how: str, streams: bool, request: Any, context: Any) -> Any:
            case = self._cases[request.value]
            if how == "aio":
                asynchronous = AsyncRun(case, self._ledger, store, context)
                return asynchronous.stream() if streams else asynchronous.unary()
            plain = ThreadRun(case, self._ledger, store, context, loop)
            return plain.stream() if streams else plain.unary()

        return run
