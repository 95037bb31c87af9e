"""Servers to measure, in one process: ``python -m bench.server SETUP ...``.

A SETUP is the JSON of :class:`bench.setup.Setup`.
"""

import asyncio
import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from contextvars import copy_context
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

import grpc_idempotency
import grpc_idempotency.aio
from bench import aio_handlers, sync_handlers
from bench.guard import TABLE, Guard
from bench.load import METHODS
from bench.orders import SQLITE, Tables
from bench.processes import stay_on_cpus, take_orders, take_orders_blocking
from bench.setup import Setup
from grpc_idempotency import Effects, Policy
from shop.orders.v1.orders_pb2 import CreateOrderRequest, Order

_THREADS = 64
"""The threads of a ``grpc.server``: one for each caller of the largest load."""
_OPTIONS = [("grpc.so_reuseport", 0)]


class Serving:
    """The figures of a running server."""

    def __init__(self, port: int, effects: Callable[[], int], export: Callable[[], object]) -> None:
        self._port = port
        self._effects = effects
        self._export = export

    def answer(self) -> dict[str, Any]:
        """Returns the port, the processor time used so far, the resident memory, and the number of effects."""
        self._export()
        cpu = time.process_time()  # before the effects are counted
        return {
            "port": self._port,
            "cpu": cpu,
            "rss": _resident(),
            "effects": self._effects(),
        }


def _resident() -> int | None:
    """Returns the resident memory in bytes, if the system can tell."""
    table = Path("/proc/self/statm")
    return int(table.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if table.exists() else None


def _handlers(setup: Setup, handle: Any) -> grpc.GenericRpcHandler:
    request: Any = CreateOrderRequest if setup.service == "order" else StringValue
    reply: Any = Order if setup.service == "order" else StringValue
    _, name, method = METHODS[setup.service][0].split("/")
    handler = grpc.unary_unary_rpc_method_handler(handle, request.FromString, reply.SerializeToString)
    return grpc.method_handlers_generic_handler(name, {method: handler})


def _policy(setup: Setup) -> Policy:
    effects = Effects.TRANSACTIONAL if setup.service == "order" else Effects.OPAQUE
    if setup.ttl is None:
        return Policy(effects=effects)
    return Policy(effects=effects, ttl=timedelta(seconds=setup.ttl))


def _sweep_every(setup: Setup) -> timedelta | None:
    return None if setup.sweep_every is None else timedelta(seconds=setup.sweep_every)


def _observers(setup: Setup) -> tuple[list[Any], Callable[[], object]]:
    """Returns the observers, and what exports what they have counted."""
    if not setup.observed:
        return [], lambda: None
    from bench.observed import all_observers  # on use: other servers shall not have OpenTelemetry in memory

    return all_observers()


def _tables(setup: Setup) -> Tables:
    if setup.store == "sqlite":
        return SQLITE
    from bench.postgres_orders import POSTGRESQL  # on use: other servers shall not have psycopg in memory

    return POSTGRESQL


async def _serve_aio(setups: Sequence[Setup]) -> None:
    """Serves on ``grpc.aio`` until the standard input ends."""
    async with AsyncExitStack() as ends:
        # Each is started in a task, and so in a context of its own: it has the span of its own observers.
        servings = [await asyncio.create_task(_start_aio(setup, ends)) for setup in setups]
        await take_orders(lambda order: servings[order["server"]].answer())


async def _start_aio(setup: Setup, ends: AsyncExitStack) -> Serving:
    synchronous = setup.tuning.synchronous
    interceptors: list[Any] = []
    observers, export = _observers(setup)
    service: Any = aio_handlers.Echo(setup.reply_length)
    if setup.role == "ours":
        store: Any = grpc_idempotency.aio.store_from_url(setup.url)
        await store.open()
        interceptor = grpc_idempotency.aio.IdempotencyInterceptor(
            store, policy=_policy(setup), sweep_every=_sweep_every(setup), observers=observers
        )
        interceptors.append(interceptor)
        ends.push_async_callback(interceptor.close)
        if setup.service == "order":
            service = aio_handlers.TransactionalOrders(store, _tables(setup), setup.database)
    elif setup.role == "guard":
        db = await aio_handlers.connect(setup.database, synchronous, isolation_level="DEFERRED")
        await db.execute(TABLE)
        interceptors.append(Guard(db))
        ends.push_async_callback(db.close)
    elif setup.service == "order" and setup.store == "postgresql":
        from bench.postgres_orders import AsyncOrders

        service = await AsyncOrders.open(setup.database)
    elif setup.service == "order":
        service = await aio_handlers.Orders.open(setup.database, synchronous)
    server = grpc.aio.server(interceptors=interceptors, options=_OPTIONS)
    server.add_generic_rpc_handlers([_handlers(setup, service.handle)])
    serving = Serving(server.add_insecure_port("127.0.0.1:0"), service.effects, export)
    await server.start()
    ends.push_async_callback(service.close)
    ends.push_async_callback(server.stop, None)
    return serving


def _serve_sync(setups: Sequence[Setup]) -> None:
    """Serves on ``grpc.server`` until the standard input ends."""
    with ExitStack() as ends:
        servings = [copy_context().run(_start_sync, setup, ends) for setup in setups]
        take_orders_blocking(lambda order: servings[order["server"]].answer())


def _start_sync(setup: Setup, ends: ExitStack) -> Serving:
    interceptors: list[grpc.ServerInterceptor] = []
    observers, export = _observers(setup)
    service: Any = sync_handlers.Echo(setup.reply_length)
    if setup.role == "ours":
        store: Any = grpc_idempotency.store_from_url(setup.url)
        store.open()
        interceptor = grpc_idempotency.IdempotencyInterceptor(
            store, policy=_policy(setup), sweep_every=_sweep_every(setup), observers=observers
        )
        interceptors.append(interceptor)
        ends.callback(interceptor.close)
        if setup.service == "order":
            service = sync_handlers.TransactionalOrders(store, _tables(setup), setup.database)
    elif setup.service == "order" and setup.store == "postgresql":
        from bench.postgres_orders import Orders

        service = Orders(setup.database)
    elif setup.service == "order":
        service = sync_handlers.Orders(setup.database, setup.tuning.synchronous)
    in_context = copy_context()  # a span that an observer writes to; a thread has no context of its own
    pool = ThreadPoolExecutor(_THREADS, initializer=lambda: [variable.set(of) for variable, of in in_context.items()])
    server = grpc.server(pool, interceptors=interceptors, options=_OPTIONS)
    server.add_generic_rpc_handlers([_handlers(setup, service.handle)])
    serving = Serving(server.add_insecure_port("127.0.0.1:0"), service.effects, export)
    server.start()
    ends.callback(service.close)
    ends.callback(lambda: server.stop(None).wait())
    return serving


def main(setups: Sequence[Setup]) -> None:
    """Serves until the standard input ends. All servers are of one kind, with one tuning."""
    setup = setups[0]
    if setup.tuning.gc_threshold is not None:
        gc.set_threshold(setup.tuning.gc_threshold)
    if setup.kind == "sync":
        _serve_sync(setups)
    elif setup.tuning.uvloop:
        import uvloop

        uvloop.run(_serve_aio(setups))
    else:
        asyncio.run(_serve_aio(setups))


if __name__ == "__main__":
    stay_on_cpus()
    main([Setup.of_argument(argument) for argument in sys.argv[1:]])
