"""The shop's server: two services behind the idempotency interceptor, on one SQLite file."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from grpc_idempotency import Effects, Policy, StoreError
from grpc_idempotency.aio import IdempotencyInterceptor, SQLiteStore
from shop.calls import CallLog
from shop.config import Config
from shop.orders.changes import Changes
from shop.orders.service import OrderService
from shop.orders.v1 import orders_pb2, orders_pb2_grpc
from shop.schema import SchemaTooNew, migrate
from shop.users.service import UserService
from shop.users.v1 import users_pb2, users_pb2_grpc

_SERVICES = (
    users_pb2.DESCRIPTOR.services_by_name["UserService"].full_name,
    orders_pb2.DESCRIPTOR.services_by_name["OrderService"].full_name,
)
_GRACE = 10.0
"""Seconds that calls have to end at a stop. An operation that is cut off from its call then still runs to its end."""


class CannotServe(Exception):
    """The shop can't be served as configured; the message is one line. Expected where a port is taken, say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """A shop that is open for calls."""

    address: str
    """HOST:PORT, with the port that was taken."""
    store: SQLiteStore
    changes: Changes
    server: grpc.aio.Server


@asynccontextmanager
async def serving(config: Config) -> AsyncIterator[Shop]:
    """Serves a shop, and at the end lets what runs end or stores it. Raises :class:`CannotServe` at its start."""
    store = SQLiteStore(config.store)
    changes = Changes()
    checks = health.aio.HealthServicer()
    server = _server(config, store, changes)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        port = _listen(server, config)
        await _prepare(store, config)
        await server.start()
        for service in _SERVICES:
            await checks.set(service, health_pb2.HealthCheckResponse.SERVING)
        yield Shop(address=f"{config.host}:{port}", store=store, changes=changes, server=server)
    finally:
        await checks.enter_graceful_shutdown()
        changes.close()
        await server.stop(_GRACE)


def _server(config: Config, store: SQLiteStore, changes: Changes) -> grpc.aio.Server:
    """The services, and what stands before them."""
    # Every write is one store.transaction, so a call that was cut short has left nothing and may simply run again.
    writes = Policy(effects=Effects.TRANSACTIONAL, ttl=config.ttl)
    idempotency = IdempotencyInterceptor(store, methods={f"/{service}/*": writes for service in _SERVICES})
    # Two servers on one port would be an accident here, so the port is not shared.
    server = grpc.aio.server(interceptors=[CallLog(), idempotency], options=[("grpc.so_reuseport", 0)])
    # Before the services are added: it hears of their methods. At a stop it drains operations and closes the store.
    idempotency.attach(server)
    users_pb2_grpc.add_UserServiceServicer_to_server(UserService(store), server)
    orders_pb2_grpc.add_OrderServiceServicer_to_server(OrderService(store, changes), server)
    return server


async def _prepare(store: SQLiteStore, config: Config) -> None:
    """Makes the shop's tables in the store's database."""
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
