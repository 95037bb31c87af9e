"""Servers on several hosts, as it were: each with a store of its own, on one Redis (4.1, 4.3, 6.2)."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

import redis
from grpc_idempotency import Effects, Policy, RedisStore, State, aio
from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.records import StoredRequest
from grpc_idempotency.testing import a_claim

from ..harness import valkey
from ..harness.handlers import EACH_SERVER, full
from ..harness.replies import new_key, text
from ..harness.servers import Servers
from ..harness.waiting import Gate, ms, until
from .conftest import Make


@pytest.fixture
async def serve(request: pytest.FixtureRequest, tmp_path: Path, nothing_left: None) -> AsyncIterator[Servers]:
    async with AsyncExitStack() as stack:
        yield Servers(request.param, tmp_path, stack)


@pytest.fixture(params=["server", "cluster"])
def urls(request: pytest.FixtureRequest) -> Sequence[str]:
    """The URL of one server, or those of a cluster's nodes."""
    found = request.getfixturevalue(request.param)
    return [found] if request.param == "server" else [node.url for node in found]


@pytest.fixture
def url(urls: Sequence[str]) -> str:
    return urls[0]


def hears_of_ends(urls: Sequence[str], prefix: str, name: bytes = b"") -> bool:
    """True if a process is subscribed and registered with an operation, or with any: then its end will be published.

    It asks the servers. The store takes an operation for registered when it sends the registration, and the end of the
    run may overtake that.
    """
    channels: list[bytes] = []
    waiters: list[bytes] = []
    for url in urls:
        with closing(redis.Redis.from_url(url)) as client:
            channels += client.pubsub_channels(f"{prefix}:wake:*")
            waiters += client.scan_iter(match=f"{prefix}:*:w:*", count=1000)
    return bool(channels) and any(key.endswith(name) for key in waiters)


def a_store(serve: Servers, url: str, prefix: str) -> Any:
    return (RedisStore if serve.kind == "sync" else aio.RedisStore)(url, prefix=prefix)


@pytest.mark.parametrize("serve", EACH_SERVER, indirect=True)
async def test_a_key_has_one_effect_on_many_servers(serve: Servers, url: str, prefix: str) -> None:
    """Duplicates at three servers are one execution; all get its reply, and so does a later call (4.1, 4.3, 4.7)."""
    runs: Counter[str] = Counter()

    async def run(request: StringValue, _context: Any) -> StringValue:
        runs[request.value] += 1
        await asyncio.sleep(0.02)
        return text(f"{request.value} {runs[request.value]}")

    services = [
        await serve({"Do": run}, store=a_store(serve, url, prefix), workers=32, max_waiters=30) for _ in range(3)
    ]
    keys = [new_key() for _ in range(10)]
    replies = await asyncio.gather(
        *(services[n % 3].call("Do", f"order {n % 10}", key=keys[n % 10]) for n in range(60))
    )
    assert [reply.text for reply in replies] == [f"order {n % 10} 1" for n in range(60)]
    assert set(runs.values()) == {1}
    again = await services[0].call("Do", "order 3", key=keys[3])
    assert (again.text, again.mark) == ("order 3 1", "replayed")


@pytest.mark.parametrize("serve", EACH_SERVER, indirect=True)
async def test_a_live_server_finishes_what_a_dead_one_began(
    serve: Servers, server: str, prefix: str, make: Make
) -> None:
    """A claim whose server is gone is run again from its stored request, and one in doubt is held (5.4)."""

    async def run(request: StringValue, _context: Any) -> StringValue:
        return text(f"{request.value} is done")

    store = make()
    message = StringValue(value="order").SerializeToString()
    request = StoredRequest(principal=b"", metadata=(), messages=(message,))
    safe = a_claim(method=full("Do"), effects=Effects.REPEATABLE, lease=ms(1), request=request)
    in_doubt = a_claim(method=full("Do"), lease=ms(1))
    for claim in (safe, in_doubt):
        assert await store.claim(claim) is None
    await serve({"Do": run}, policies={"Do": Policy(effects=Effects.REPEATABLE)}, store=a_store(serve, server, prefix))

    async def ended() -> bool:
        states = {record.name: record.state for record in await store.list()}
        return states == {safe.name: State.COMPLETED, in_doubt.name: State.HELD}

    await until(ended)
    record = await store.get(safe.name)
    assert record is not None
    assert record.outcome is not None
    assert record.outcome.message == text("order is done").SerializeToString()


@pytest.mark.parametrize("serve", EACH_SERVER, indirect=True)
async def test_a_waiting_call_is_told_of_the_end(serve: Servers, urls: Sequence[str], prefix: str) -> None:
    """A duplicate at another server is told when the run ends, and waits for no poll (4.3)."""
    began, ends = Gate(), Gate()

    async def run(_request: StringValue, _context: Any) -> StringValue:
        began.open()
        await ends.wait()
        return text("done")

    first = await serve({"Do": run}, store=a_store(serve, urls[0], prefix))
    told = Gate()
    store = a_store(serve, urls[0], prefix)
    second = await serve({"Do": run}, store=store)
    key = new_key()
    leading = asyncio.ensure_future(first.call("Do", key=key))
    await began.wait()
    following = asyncio.ensure_future(second.call("Do", key=key))

    async def registered() -> bool:
        return hears_of_ends(urls, prefix)

    await until(registered)
    end = store.subscribe(told.open)
    ends.open()
    await told.wait()
    assert (await leading).mark == "executed"
    assert (await following).mark == "attached"
    end()


async def test_a_watch_that_loses_its_server_hears_again(make: Make, prefix: str) -> None:
    """While the server is away polls alone find changes; then the store subscribes and registers again."""
    with valkey.started() as server:
        store, other = make(server.url), make(server.url)
        claims = [a_claim(), a_claim()]
        await store.open()
        told = Gate()
        end = store.subscribe(told.open)
        for claim in claims:
            assert await other.claim(claim) is None

            async def registered(name: bytes = claim.name) -> bool:
                with suppress(StoreUnavailable):
                    await store.standing([name])
                return hears_of_ends([server.url], prefix, name)

            await until(registered)
            assert await other.release(claim.name, claim.fence)
            await told.wait()
            server.kill()
            server.start()
            told = Gate()
            end()
            end = store.subscribe(told.open)
            await other.open()
        end()


async def test_a_listener_that_fails_deafens_no_other(make: Make, server: str, prefix: str) -> None:
    """After its error the store subscribes again, and all that listen are told."""
    store, other = make(), make()
    claims = [a_claim(), a_claim()]
    await store.open()
    told = Gate()

    def fail() -> None:
        told.open()
        raise ValueError("a bug of a listener")

    end = store.subscribe(fail)
    for claim in claims:
        assert await other.claim(claim) is None

        async def registered(name: bytes = claim.name) -> bool:
            await store.standing([name])
            return hears_of_ends([server], prefix, name)

        await until(registered)
        assert await other.release(claim.name, claim.fence)
        await told.wait()
        end()
        told = Gate()
        end = store.subscribe(told.open)
    end()


async def test_a_subscription_without_a_thread_can_be_tried_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started the caller is told, and the next one gets one."""
    store = make()
    await store.open()

    def no_thread(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError):
            store.subscribe(lambda: None)
    store.subscribe(lambda: None)()
