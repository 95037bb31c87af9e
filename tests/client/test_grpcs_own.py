"""Health, reflection and channelz are gRPC's own: they are never keyed, and never kept (2.5)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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

KEY = "idempotency-key"
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
        done = self._health.set("", status)
        if self.kind == "aio":
            await done

    async def check(self, **more: Any) -> Any:
        request = health_pb2.HealthCheckRequest()
        if self.kind == "aio":
            reply = await self._checks.Check(request, timeout=10, **more)
        else:
            reply = await asyncio.to_thread(lambda: self._checks.Check(request, timeout=10, **more))
        return reply.status

    async def watch(self, then: Callable[[], Any], **more: Any) -> list[Any]:
        """The first two statuses of a Watch; ``then`` is called after the first."""
        call = self._checks.Watch(health_pb2.HealthCheckRequest(), timeout=10, **more)
        messages = aiter(call) if self.kind == "aio" else _awaited(iter(call))
        statuses = [(await anext(messages)).status]
        await then()
        statuses.append((await anext(messages)).status)
        call.cancel()
        return statuses

    async def services(self, **more: Any) -> list[str]:
        requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
        call = self._reflection.ServerReflectionInfo(iter(requests), timeout=10, **more)
        messages = aiter(call) if self.kind == "aio" else _awaited(iter(call))
        return [one.name async for reply in messages for one in reply.list_services_response.service]

    async def stored(self) -> list[str]:
        listed = self._store.list()
        return [record.method for record in (await listed if self.kind == "aio" else listed)]


async def _awaited(messages: Iterator[Any]) -> AsyncIterator[Any]:
    while (message := await asyncio.to_thread(next, messages, None)) is not None:
        yield message


Serve = Callable[..., Any]


@pytest.fixture(params=["aio", "sync"])
async def serve(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Serve]:
    """Makes places of each kind of server."""
    async with AsyncExitStack() as stack:

        async def make(client: Any = None, **configured: Any) -> Place:
            if request.param == "aio":
                return await _aio_place(stack, tmp_path, client or {}, configured)
            return _sync_place(stack, tmp_path, client or {}, configured)

        yield make


async def _aio_place(stack: AsyncExitStack, folder: Path, client: Any, configured: Any) -> Place:
    store = aio.SQLiteStore(folder / "operations.db")
    interceptor = aio.IdempotencyInterceptor(store, **configured)
    server = grpc.aio.server(interceptors=[interceptor])
    interceptor.attach(server)
    servicer = health.aio.HealthServicer()
    await servicer.set("", SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection([reflection.SERVICE_NAME], server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stack.push_async_callback(server.stop, None)
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", interceptors=aio.client_interceptors(**client))
    return Place("aio", store, servicer, await stack.enter_async_context(channel))


def _sync_place(stack: AsyncExitStack, folder: Path, client: Any, configured: Any) -> Place:
    store = grpc_idempotency.SQLiteStore(folder / "operations.db")
    interceptor = grpc_idempotency.IdempotencyInterceptor(store, **configured)
    pool = ThreadPoolExecutor(4)
    server = grpc.server(pool, interceptors=[interceptor])
    interceptor.attach(server)
    servicer = health.HealthServicer()
    servicer.set("", SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection([reflection.SERVICE_NAME], server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    stack.callback(pool.shutdown)
    stack.push_async_callback(asyncio.to_thread, lambda: server.stop(None).wait())
    channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}"))
    return Place("sync", store, servicer, grpc.intercept_channel(channel, ClientInterceptor(**client)))


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
    """Who names one of gRPC's own methods exactly has its calls keyed, and kept."""
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
