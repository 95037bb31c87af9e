"""Health, reflection and channelz are gRPC's own: they are never keyed, and never kept (2.5)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

import grpc_idempotency
from grpc_idempotency import ClientInterceptor, ClientPolicy, Policy, aio
from grpc_idempotency._client.keys import Clients
from grpc_idempotency._methods.resolve import Methods

from ..harness.handlers import EACH_SERVER
from ..harness.replies import KEY
from ..harness.servers import Server, answered, interceptor_of

CHECK = "/grpc.health.v1.Health/Check"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Place:
    """A server with health and reflection behind the interceptor, and a channel with the client's."""

    def __init__(self, kind: str, store: Any, health_of: Any, channel: Any) -> None:
        self.kind = kind
        self._store = store
        self._health = health_of
        self._checks: Any = health_pb2_grpc.HealthStub(channel)  # the stubs for mypy know no methods of it
        self._reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)

    async def set(self, status: Any) -> None:
        await answered(self._health.set("", status))

    async def check(self, **more: Any) -> Any:
        request = health_pb2.HealthCheckRequest()
        if self.kind == "async":
            reply = await self._checks.Check(request, timeout=10, **more)
        else:
            reply = await asyncio.to_thread(lambda: self._checks.Check(request, timeout=10, **more))
        return reply.status

    async def watch(self, then: Callable[[], Any], **more: Any) -> list[Any]:
        """The first two statuses of a Watch; ``then`` is called after the first."""
        call = self._checks.Watch(health_pb2.HealthCheckRequest(), timeout=10, **more)
        messages = aiter(call) if self.kind == "async" else _awaited(iter(call))
        statuses = [(await anext(messages)).status]
        await then()
        statuses.append((await anext(messages)).status)
        call.cancel()
        return statuses

    async def services(self, **more: Any) -> list[str]:
        requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
        call = self._reflection.ServerReflectionInfo(iter(requests), timeout=10, **more)
        messages = aiter(call) if self.kind == "async" else _awaited(iter(call))
        return [one.name async for reply in messages for one in reply.list_services_response.service]

    async def stored(self) -> list[str]:
        return [record.method for record in await answered(self._store.list())]


async def _awaited(messages: Iterator[Any]) -> AsyncIterator[Any]:
    while (message := await asyncio.to_thread(next, messages, None)) is not None:
        yield message


Serve = Callable[..., Any]


@pytest.fixture(params=EACH_SERVER)
async def serve(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Serve]:
    """Makes places of each kind of server."""
    async with AsyncExitStack() as stack:

        async def make(client: Any = None, **configured: Any) -> Place:
            return await _place(request.param, stack, tmp_path / "operations.db", client or {}, configured)

        yield make


async def _place(kind: str, stack: AsyncExitStack, path: Path, client: Any, configured: Any) -> Place:
    store: Any = (grpc_idempotency.SQLiteStore if kind == "sync" else aio.SQLiteStore)(path)
    interceptor = interceptor_of(kind, store, **configured)
    server = Server(kind, [interceptor])
    interceptor.attach(server.real)
    servicer: Any = (health if kind == "sync" else health.aio).HealthServicer()
    await answered(servicer.set("", SERVING))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server.real)
    reflection.enable_server_reflection([reflection.SERVICE_NAME], server.real)
    target = await server.start()
    stack.push_async_callback(server.stop)
    channel: Any
    if kind == "sync":
        bare = stack.enter_context(grpc.insecure_channel(target))
        channel = grpc.intercept_channel(bare, ClientInterceptor(**client))
    else:
        interceptors = aio.client_interceptors(**client)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(target, interceptors=interceptors))
    return Place(kind, store, servicer, channel)


@pytest.mark.parametrize("metadata", [(), ((KEY, "k"),)])
async def test_health_is_the_moments(serve: Serve, metadata: Any) -> None:
    """A check is answered with how things are now, with or without a key, whoever asks; nothing is kept."""
    place = await serve(policy=Policy(required=True), principal=lambda _caller: None)
    assert await place.check(metadata=metadata) == SERVING
    assert await place.watch(lambda: place.set(NOT_SERVING), metadata=metadata) == [SERVING, NOT_SERVING]
    assert await place.check(metadata=metadata) == NOT_SERVING
    assert await place.stored() == []


async def test_reflection_takes_a_key_as_nothing(serve: Serve) -> None:
    """A tool that puts the key into every call gets its answer from the bidirectional method of reflection."""
    place = await serve(policy=Policy(required=True))
    for metadata in ((), ((KEY, "k"),)):
        assert await place.services(metadata=metadata) == [reflection.SERVICE_NAME]


async def test_a_glob_means_none_of_them(serve: Serve) -> None:
    """A glob that happens to fit one of gRPC's own methods keys no call, at either end."""
    everything = "/*"
    place = await serve(
        client={"methods": {everything: ClientPolicy(keyed=True)}},
        methods={everything: Policy(required=True)},
    )
    assert await place.check() == SERVING
    assert await place.stored() == []


async def test_an_exact_name_means_it(serve: Serve) -> None:
    """A policy that names one of gRPC's own methods exactly has its calls keyed, and kept."""
    place = await serve(client={"methods": {CHECK: ClientPolicy()}}, methods={CHECK: Policy()})
    assert await place.check() == SERVING
    assert await place.stored() == [CHECK]


@pytest.mark.parametrize(
    "name",
    ["/grpc.channelz.v1.Channelz/GetServers", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", CHECK],
)
def test_all_three_are_gRPCs_own(name: str) -> None:
    """Channelz, reflection and health of any version pass; a service with a name like theirs does not."""
    assert Methods(Policy(required=True), {}, lambda _policy: None)[name].passes
    rules = Clients(ClientPolicy(keyed=True), None).rules(name, bidirectional=False)
    assert (rules.keyed, rules.reads) == (False, True)
    other = name.replace("/grpc.", "/grpc.my")
    assert not Methods(Policy(), {}, lambda _policy: None)[other].passes
    assert Clients(ClientPolicy(), None).rules(other, bidirectional=False).keyed
