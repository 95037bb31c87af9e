"""The shop's server: two services, or one of them, behind the idempotency interceptor, on one SQLite file."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from grpc_idempotency import Effects, Policy, StoreError
from grpc_idempotency.aio import IdempotencyInterceptor, SQLiteStore, client_interceptors
from shop.calls import CallLog
from shop.config import Config
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
    store: SQLiteStore
    changes: Changes
    server: grpc.aio.Server


@asynccontextmanager
async def serving(config: Config) -> AsyncIterator[Shop]:
    """Serves a shop until the end of the ``async with`` block, and then drains it.

    Raises:
        CannotServe: The shop can't start.
    """
    store = SQLiteStore(config.store)
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
        _add_services(server, services, store, changes, channel)
        await _prepare(store, config)
        await server.start()
        for service in services:
            await checks.set(service, health_pb2.HealthCheckResponse.SERVING)
        yield Shop(address=f"{config.host}:{port}", store=store, changes=changes, server=server)
    finally:
        await checks.enter_graceful_shutdown()
        changes.close()
        await server.stop(_GRACE)
        if channel is not None:  # after the running checkouts, which use it
            await channel.close()


def _services(config: Config) -> tuple[str, ...]:
    names = {"users": _USERS, "orders": _ORDERS}
    return tuple(full for name, full in names.items() if name in config.services)


def _server(config: Config, store: SQLiteStore, services: Sequence[str]) -> grpc.aio.Server:
    """Makes a server with its interceptors, and without services."""
    idempotency = IdempotencyInterceptor(store, methods=_policies(config, services))
    # Two servers on one port would be a mistake here, so the port is not shared.
    server = grpc.aio.server(interceptors=[CallLog(), idempotency], options=[("grpc.so_reuseport", 0)])
    # Before the services are added, so that it learns their methods. At a stop it drains and closes the store.
    idempotency.attach(server)
    return server


def _policies(config: Config, services: Sequence[str]) -> dict[str, Policy]:
    # A write is one store.transaction, so a call that was cut short has left nothing and may run again.
    writes = Policy(
        effects=Effects.TRANSACTIONAL, ttl=config.ttl, lease=config.lease, renew_every=min(config.lease / 3, _RENEWAL)
    )
    policies = {f"/{service}/*": writes for service in services}
    if _ORDERS in services:
        # Its steps keep its progress, and they can only be kept under a key. The user service may be unreachable for
        # hours before a checkout is given up.
        steps = replace(writes, effects=Effects.REPEATABLE, required=True, max_tries=_MOST_TRIES)
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
    server: grpc.aio.Server, services: Sequence[str], store: SQLiteStore, changes: Changes, channel: grpc.aio.Channel
) -> None:
    if _USERS in services:
        users_pb2_grpc.add_UserServiceServicer_to_server(UserService(store), server)
    if _ORDERS in services:
        users = users_pb2_grpc.UserServiceStub(channel)
        orders_pb2_grpc.add_OrderServiceServicer_to_server(OrderService(store, changes, users), server)


def _channel_to_users(config: Config, port: int) -> grpc.aio.Channel:
    """Makes the channel on which checkouts call the user service. Its calls have keys, which retries keep."""
    address = config.users or f"{_ANY_ADDRESS.get(config.host, config.host)}:{port}"
    return grpc.aio.insecure_channel(address, interceptors=client_interceptors(), options=_RECONNECTS)


async def _prepare(store: SQLiteStore, config: Config) -> None:
    """Creates the shop's tables in the store's database."""
    try:
        config.store.parent.mkdir(parents=True, exist_ok=True)
        await store.transaction(migrate)
    except (OSError, StoreError, SchemaTooNew) as error:
        raise CannotServe(f"The store {config.store} can't be used: {error}") from error


def _listen(server: grpc.aio.Server, config: Config) -> int:
    try:
        return server.add_insecure_port(f"{config.host}:{config.port}")
    except RuntimeError as error:
        address = f"{config.host}:{config.port}"
        raise CannotServe(f"Can't listen on {address}: it is taken, or no address of this machine.") from error
