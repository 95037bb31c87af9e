"""The shop's server: two services, or one of them, behind the idempotency interceptor, on any store."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from grpc_idempotency import Effects, Policy, StoreError
from grpc_idempotency.aio import IdempotencyInterceptor, Store, client_interceptors, store_from_url
from shop.calls import CallLog
from shop.config import Config
from shop.database import SQLITE, Data, Transactions, engine_of
from shop.orders.changes import Changes
from shop.orders.service import OrderService
from shop.orders.v1 import orders_pb2, orders_pb2_grpc
from shop.schema import SchemaTooNew, migrate
from shop.users.service import UserService
from shop.users.v1 import users_pb2, users_pb2_grpc

_USERS = users_pb2.DESCRIPTOR.services_by_name["UserService"].full_name
_ORDERS = orders_pb2.DESCRIPTOR.services_by_name["OrderService"].full_name
_GRACE = 10.0
"""How many seconds calls may take to end when the server stops. An operation whose call is cut still ends."""
_RENEWAL = timedelta(seconds=5)
_MOST_TRIES = 200
_WATCH_KEPT = timedelta(minutes=10)
_WATCHED = timedelta(hours=1)
"""How long a keyed watch may run. ``_WATCH_KEPT`` is how long it can be resumed after its end."""
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104  # the address to call if a server listens on all
_RECONNECTS = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 2000)]
"""Reconnects soon to a user service that was unreachable: gRPC's own back-off grows to two minutes."""


class CannotServe(Exception):
    """The shop can't be served as configured. The message is one line. Expected if a port is taken, for example."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """A running shop."""

    address: str
    """HOST:PORT, with the actual port."""
    store: Store
    """The store of the operations."""
    data: Data
    changes: Changes
    server: grpc.aio.Server


@asynccontextmanager
async def serving(config: Config) -> AsyncIterator[Shop]:
    """Serves a shop until the end of the ``async with`` block, and then drains it.

    Raises:
        CannotServe: The shop can't start.
    """
    store = store_from_url(config.store)
    rows = store if config.database is None else store_from_url(config.database)
    engine = engine_of(config.database or config.store)
    if engine is None or not isinstance(rows, Transactions):
        raise CannotServe("The shop's rows need a store on SQLite or PostgreSQL.")
    data = Data(rows, engine, beside=rows is not store)
    changes = Changes()
    checks = health.aio.HealthServicer()
    services = _services(config)
    server = _server(config, store, services)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    channel: grpc.aio.Channel | None = None
    try:
        port = _listen(server, config)
        channel = _channel_to_users(config, port)
        _add_services(server, services, data, changes, channel)
        await _prepare(config, store, rows, data)
        await server.start()
        for service in services:
            await checks.set(service, health_pb2.HealthCheckResponse.SERVING)
        yield Shop(address=f"{config.host}:{port}", store=store, data=data, changes=changes, server=server)
    finally:
        await checks.enter_graceful_shutdown()
        changes.close()
        await server.stop(_GRACE)
        if channel is not None:  # after the running checkouts, which use it
            await channel.close()
        if rows is not store:  # which the interceptor closes
            await rows.close()


def _services(config: Config) -> tuple[str, ...]:
    names = {"users": _USERS, "orders": _ORDERS}
    return tuple(full for name, full in names.items() if name in config.services)


def _server(config: Config, store: Store, services: Sequence[str]) -> grpc.aio.Server:
    """Makes a server with its interceptors, and without services."""
    idempotency = IdempotencyInterceptor(store, methods=_policies(config, services))
    # Two servers on one port are a mistake, unless they are the workers of one shop.
    options = [("grpc.so_reuseport", int(config.shares_port))]
    server = grpc.aio.server(interceptors=[CallLog(), idempotency], options=options)
    # Before the services are added, so that it learns their methods. At a stop it drains and closes the store.
    idempotency.attach(server)
    return server


def _policies(config: Config, services: Sequence[str]) -> dict[str, Policy]:
    # Where rows and reply share a transaction, a call that was cut short has left nothing and may run again. Otherwise
    # nobody can know whether it has left rows: it is held.
    beside = config.database is not None
    writes = Policy(
        effects=Effects.OPAQUE if beside else Effects.TRANSACTIONAL,
        ttl=config.ttl,
        lease=config.lease,
        renew_every=min(config.lease / 3, _RENEWAL),
    )
    policies = {f"/{service}/*": writes for service in services}
    if _ORDERS in services:
        # Its steps keep its progress, and they can only be kept under a key. The user service may be unreachable for
        # hours before a checkout is given up.
        effects = Effects.OPAQUE if beside else Effects.REPEATABLE
        steps = replace(writes, effects=effects, required=True, max_tries=_MOST_TRIES)
        policies[f"/{_ORDERS}/Checkout"] = steps
        # A keyed watch that lost its connection is replayed from its first change, and continues with those it missed.
        policies[f"/{_ORDERS}/WatchOrder"] = replace(
            writes,
            effects=Effects.REPEATABLE,
            replay_reads=True,
            recover=False,
            ttl=_WATCH_KEPT,
            execution_limit=_WATCHED,
        )
    return policies


def _add_services(
    server: grpc.aio.Server, services: Sequence[str], data: Data, changes: Changes, channel: grpc.aio.Channel
) -> None:
    if _USERS in services:
        users_pb2_grpc.add_UserServiceServicer_to_server(UserService(data), server)
    if _ORDERS in services:
        users = users_pb2_grpc.UserServiceStub(channel)
        orders_pb2_grpc.add_OrderServiceServicer_to_server(OrderService(data, changes, users), server)


def _channel_to_users(config: Config, port: int) -> grpc.aio.Channel:
    """Makes the channel on which checkouts call the user service. Its calls have keys, which retries keep."""
    address = config.users or f"{_ANY_ADDRESS.get(config.host, config.host)}:{port}"
    return grpc.aio.insecure_channel(address, interceptors=client_interceptors(), options=_RECONNECTS)


async def _prepare(config: Config, store: Store, rows: Store, data: Data) -> None:
    """Opens the stores, and creates the shop's tables."""
    try:
        for url in filter(None, (config.store, config.database)):
            _make_folder(url)
        await store.open()
        await rows.open()
        await data.transaction(migrate)
    except (StoreError, SchemaTooNew) as error:
        raise CannotServe(f"The store can't be used: {error}") from error


def _make_folder(url: str) -> None:
    """Creates the folder of an SQLite file."""
    if engine_of(url) is SQLITE:
        path = Path(unquote(url.partition(":///")[2].partition("?")[0]))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CannotServe(f"The folder of {path} can't be made: {error.strerror}") from error


def _listen(server: grpc.aio.Server, config: Config) -> int:
    try:
        return server.add_insecure_port(f"{config.host}:{config.port}")
    except RuntimeError as error:
        address = f"{config.host}:{config.port}"
        raise CannotServe(f"Can't listen on {address}: it is taken, or no address of this machine.") from error
