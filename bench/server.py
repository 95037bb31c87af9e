"""A server to measure: ``python -m bench.server SETUP``, where SETUP is the JSON of :class:`bench.setup.Setup`."""

import asyncio
import gc
import os
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
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

    def __init__(self, port: int, effects: Callable[[], int]) -> None:
        self._port = port
        self._effects = effects

    def answer(self, _order: dict[str, Any]) -> dict[str, Any]:
        """Returns the port, the processor time used so far, the resident memory, and the number of effects."""
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


def _observers(setup: Setup) -> list[Any]:
    if not setup.observed:
        return []
    from bench.observed import all_observers  # on use: other servers shall not have OpenTelemetry in memory

    return all_observers()


def _tables(setup: Setup) -> Tables:
    if setup.store == "sqlite":
        return SQLITE
    from bench.postgres_orders import POSTGRESQL  # on use: other servers shall not have psycopg in memory

    return POSTGRESQL


async def _serve_aio(setup: Setup) -> None:
    """Serves on ``grpc.aio`` until the standard input ends."""
    synchronous = setup.tuning.synchronous
    interceptors: list[Any] = []
    closing: list[Callable[[], Coroutine[Any, Any, None]]] = []
    service: Any = aio_handlers.Echo(setup.reply_length)
    if setup.role == "ours":
        store: Any = grpc_idempotency.aio.store_from_url(setup.url)
        await store.open()
        interceptor = grpc_idempotency.aio.IdempotencyInterceptor(
            store, policy=_policy(setup), sweep_every=_sweep_every(setup), observers=_observers(setup)
        )
        interceptors.append(interceptor)
        closing.append(interceptor.close)
        if setup.service == "order":
            service = aio_handlers.TransactionalOrders(store, _tables(setup), setup.database)
    elif setup.role == "guard":
        db = await aio_handlers.connect(setup.database, synchronous, isolation_level="DEFERRED")
        await db.execute(TABLE)
        interceptors.append(Guard(db))
        closing.append(db.close)
    elif setup.service == "order" and setup.store == "postgresql":
        from bench.postgres_orders import AsyncOrders

        service = await AsyncOrders.open(setup.database)
    elif setup.service == "order":
        service = await aio_handlers.Orders.open(setup.database, synchronous)
    server = grpc.aio.server(interceptors=interceptors, options=_OPTIONS)
    server.add_generic_rpc_handlers([_handlers(setup, service.handle)])
    serving = Serving(server.add_insecure_port("127.0.0.1:0"), service.effects)
    await server.start()
    await take_orders(serving.answer)
    await server.stop(None)
    for close in (*closing, service.close):
        await close()


def _serve_sync(setup: Setup) -> None:
    """Serves on ``grpc.server`` until the standard input ends."""
    interceptors: list[grpc.ServerInterceptor] = []
    closing: list[Callable[[], None]] = []
    service: Any = sync_handlers.Echo(setup.reply_length)
    if setup.role == "ours":
        store: Any = grpc_idempotency.store_from_url(setup.url)
        store.open()
        interceptor = grpc_idempotency.IdempotencyInterceptor(
            store, policy=_policy(setup), sweep_every=_sweep_every(setup), observers=_observers(setup)
        )
        interceptors.append(interceptor)
        closing.append(interceptor.close)
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
    serving = Serving(server.add_insecure_port("127.0.0.1:0"), service.effects)
    server.start()
    take_orders_blocking(serving.answer)
    server.stop(None).wait()
    for close in (*closing, service.close):
        close()


def main(setup: Setup) -> None:
    """Serves until the standard input ends."""
    if setup.tuning.gc_threshold is not None:
        gc.set_threshold(setup.tuning.gc_threshold)
    if setup.kind == "sync":
        _serve_sync(setup)
    elif setup.tuning.uvloop:
        import uvloop

        uvloop.run(_serve_aio(setup))
    else:
        asyncio.run(_serve_aio(setup))


if __name__ == "__main__":
    stay_on_cpus()
    main(Setup.of_argument(sys.argv[1]))
