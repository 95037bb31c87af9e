"""Servers of each kind whose handlers have steps. A handler is ``async def`` and written once, as in tests/rpc.

On a thread, ``def`` handlers have the blocking :class:`grpc_idempotency.Operation`; :func:`here` hides the difference.
"""

import asyncio
import inspect
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

import grpc_idempotency
from grpc_idempotency import Effects, MemoryStore, Policy, Record, SQLiteStore, aio
from grpc_idempotency._operation.running import current

from ..rpc.handlers import SERVICE, Handler, full, of_kind
from ..rpc.helpers import Client, ms

ALL_KINDS = ("async", "thread", "sync")
"""``async def`` on ``grpc.aio``, ``def`` on ``grpc.aio``, ``def`` on ``grpc.server``."""

REPEATABLE = Policy(effects=Effects.REPEATABLE, retry_delay=ms(20), lease=ms(3000), renew_every=ms(1000))


class Here:
    """The operation of a handler of whatever kind."""

    def __init__(self, operation: "grpc_idempotency.Operation | aio.Operation") -> None:
        self.operation: Any = operation

    async def step(self, name: str, fn: Callable[..., Any], **options: Any) -> Any:
        result = self.operation.step(name, fn, **options)
        return await result if inspect.isawaitable(result) else result


def here() -> Here:
    running = current()
    assert running is not None
    operation = aio.current_operation() if running.awaited else grpc_idempotency.current_operation()
    assert operation is not None
    return Here(operation)


@dataclass(frozen=True)
class Stream:
    """An ``async def`` generator as a server-stream's handler."""

    run: Callable[[Any, Any], AsyncIterator[StringValue]]

    def of_kind(self, kind: str) -> Callable[[Any, Any], Any]:
        if kind == "async":
            return self.run

        def on_thread(request: Any, context: Any) -> Iterator[StringValue]:
            loop = asyncio.new_event_loop()
            messages = self.run(request, context)
            try:
                while True:
                    yield loop.run_until_complete(anext(messages))
            except StopAsyncIteration:
                return
            finally:
                loop.close()

        return on_thread


def handlers(kind: str, methods: Mapping[str, "Handler | Stream"]) -> Any:
    """The service's methods, for ``add_generic_rpc_handlers``."""
    made = {}
    for name, method in methods.items():
        make: Any
        if isinstance(method, Stream):
            make, behaviour = grpc.unary_stream_rpc_method_handler, method.of_kind(kind)
        else:
            make, behaviour = grpc.unary_unary_rpc_method_handler, of_kind(kind, method)
        made[name] = make(behaviour, StringValue.FromString, StringValue.SerializeToString)
    return grpc.method_handlers_generic_handler(SERVICE, made)


class Served(Client):
    """A server in this process, and a channel to it."""

    def __init__(self, channel: grpc.aio.Channel, store: Any, stop: Callable[[], Any]) -> None:
        super().__init__(channel)
        self.store = store
        self.stop = stop

    async def records(self) -> Sequence[Record]:
        found: Sequence[Record] = await now(self.store.list())
        return found

    async def the_record(self) -> Record:
        (record,) = await self.records()
        return record

    async def steps(self) -> list[str]:
        """The names of the steps of the only operation."""
        found = await now(self.store.steps((await self.the_record()).name))
        return [step.name for step in found]


async def now(reply: Any) -> Any:
    """What a store answers, of either kind."""
    return await reply if inspect.isawaitable(reply) else reply


class Net:
    """Starts servers of one kind, and stops them all at the end."""

    def __init__(self, kind: str, folder: Path, stack: AsyncExitStack) -> None:
        self.kind = kind
        self.path = folder / "steps.db"
        self._stack = stack

    def store(self, name: str = "sqlite") -> Any:
        """A new store of the server's kind."""
        if name == "memory":
            return MemoryStore() if self.kind == "sync" else aio.MemoryStore()
        return SQLiteStore(self.path) if self.kind == "sync" else aio.SQLiteStore(self.path)

    def rows(self) -> list[str]:
        """What transactions have inserted."""
        with closing(sqlite3.connect(self.path)) as db:
            return [value for (value,) in db.execute("SELECT value FROM things ORDER BY id")]

    def make_table(self) -> None:
        with closing(sqlite3.connect(self.path)) as db:
            db.execute("CREATE TABLE IF NOT EXISTS things (id INTEGER PRIMARY KEY, value TEXT)")

    async def serve(
        self,
        methods: Mapping[str, Handler | Stream],
        *,
        policy: Policy = REPEATABLE,
        policies: Mapping[str, Policy] | None = None,
        store: Any = None,
        attach: bool = True,
        **options: Any,
    ) -> Served:
        """Serves the methods behind the interceptor; ``policies`` go by the methods' short names."""
        store = store or self.store()
        named = {full(name): given for name, given in (policies or {}).items()}
        options = {"policy": policy, "methods": named, "drain_limit": ms(3000)} | options
        start = self._on_threads if self.kind == "sync" else self._on_asyncio
        target, stop = await start(methods, store, options, attach)
        self._stack.push_async_callback(stop)
        return Served(await self.channel(target), store, stop)

    async def channel(self, target: str) -> grpc.aio.Channel:
        """A channel to a server."""
        channel: grpc.aio.Channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(target))
        return channel

    async def _on_asyncio(self, methods: Any, store: Any, options: Any, attach: bool) -> tuple[str, Any]:
        interceptor = aio.IdempotencyInterceptor(store, **options)
        server = grpc.aio.server(interceptors=[interceptor], options=[("grpc.so_reuseport", 0)])
        if attach:
            interceptor.attach(server)
        server.add_generic_rpc_handlers((handlers(self.kind, methods),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()

        async def stop() -> None:
            await server.stop(None)
            await interceptor.close()

        return f"127.0.0.1:{port}", stop

    async def _on_threads(self, methods: Any, store: Any, options: Any, attach: bool) -> tuple[str, Any]:
        interceptor = grpc_idempotency.IdempotencyInterceptor(store, **options)
        pool = ThreadPoolExecutor(max_workers=16)
        server = grpc.server(pool, interceptors=[interceptor], options=[("grpc.so_reuseport", 0)])
        if attach:
            interceptor.attach(server)
        server.add_generic_rpc_handlers((handlers(self.kind, methods),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()

        async def stop() -> None:
            await asyncio.to_thread(server.stop(None).wait)
            await asyncio.to_thread(interceptor.close)
            pool.shutdown(wait=False)

        return f"127.0.0.1:{port}", stop
