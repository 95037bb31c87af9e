"""What can be set, and what a wrong setting says."""

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import traceback
from datetime import timedelta
from typing import Any

import pytest

import grpc_idempotency
from grpc_idempotency import Effects, Policy, PolicyError, aio
from grpc_idempotency.errors import StoreUnusable
from grpc_idempotency.stores._redis.server import Server
from grpc_idempotency.stores.redis import RedisStore
from grpc_idempotency.testing import a_claim

from ..harness.servers import interceptor_of
from .conftest import Make, MakeBlocking

URL = "redis://127.0.0.1:1"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"url": "mysql://x"}, "url and options must be those of redis-py"),
        ({"url": ()}, "at least one URL"),
        ({"url": [1]}, "is not a name"),
        ({"prefix": ""}, "prefix must be"),
        ({"prefix": "a{b}"}, "without braces"),
        ({"timeout": timedelta(0)}, "timeout must be"),
        ({"timeout": timedelta(hours=1)}, "timeout must be"),
        ({"timeout": timedelta(seconds=1), "replica_timeout": timedelta(seconds=1)}, "less than timeout"),
        ({"replicas": -1}, "replicas must be 0 or more"),
        ({"replicas": True}, "replicas must be a whole number"),
        ({"list_completed": 1}, "list_completed must be a bool"),
    ],
)
def test_a_wrong_setting_is_told(options: dict[str, Any], told: str) -> None:
    """It is a PolicyError where it is given, and names the setting."""
    with pytest.raises(PolicyError, match=told):
        RedisStore(**{"url": URL, **options})


@pytest.mark.parametrize(
    "url", ["redis://:s3/cret@host:6379", "redis://:s3cret@host:port", "redis://:s3\u2100cret@host"]
)
def test_a_wrong_url_is_told_without_its_password(url: str) -> None:
    """The texts of redis-py and of urllib would repeat a part of it."""
    with pytest.raises(PolicyError, match="those of redis-py") as raised:
        RedisStore(url)
    assert raised.value.__cause__ is None
    assert "s3" not in "".join(traceback.format_exception(raised.value))


async def test_urls_are_tried_in_turn(make: Make, server: str) -> None:
    """The first server that answers is used."""
    store = make([URL, server])
    await store.open()
    assert store.identity == await _identity(make(server))


async def _identity(store: aio.RedisStore) -> str | None:
    await store.open()
    return store.identity


async def test_stores_have_the_identity_of_their_keys(make: Make, make_blocking: MakeBlocking) -> None:
    """Stores with one prefix have one identity, also later and of the other kind; another prefix has another one."""
    identity = await _identity(make())
    blocking = make_blocking()
    blocking.open()
    assert identity is not None
    assert {blocking.identity, await _identity(make())} == {identity}
    assert await _identity(make(prefix="test-of-another-prefix")) != identity


async def test_keys_of_another_format_are_refused(make: Make, client: Any, prefix: str) -> None:
    """A release does not touch what a later one has written."""
    await make().open()
    (meta,) = client.scan_iter(match=f"{prefix}:*meta", count=1000)
    client.hset(meta, "version", "2")
    with pytest.raises(StoreUnusable, match="have format 2, and this release knows 1"):
        await make().open()


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_transactional_policy_is_refused_at_start(kind: str, make: Make, make_blocking: MakeBlocking) -> None:
    """The store has no transactions, so the server does not start with such a policy (5.1, 7)."""
    store = make_blocking() if kind == "sync" else make()
    with pytest.raises(PolicyError, match=r"TRANSACTIONAL needs a store with transactions; \w*RedisStore has none"):
        interceptor_of(kind, store, policy=Policy(effects=Effects.TRANSACTIONAL))


FORKING = """
    import os, signal, sys, warnings
    from grpc_idempotency import RedisStore
    from grpc_idempotency.testing import a_claim, OUTCOME, TTL
    store = RedisStore(sys.argv[1], prefix=sys.argv[2])
    claim, other = a_claim(), a_claim()
    assert store.claim(claim) is None
    warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of a fork of a process with threads
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)  # so that it ends in any case
        assert store.claim(other) is None
        store.close()
        os._exit(7)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    assert store.complete(claim.name, claim.fence, OUTCOME, TTL)
    assert store.get(other.name)
    store.close()
    print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_has_connections_of_its_own(server: str, prefix: str) -> None:
    """Those of its parent are not used by the child, and go on."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(FORKING), server, prefix]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout, ended.returncode) == ("done\n", 0), ended.stderr


async def test_a_store_that_is_closed_while_it_opens(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not open afterwards, and a later call opens it again."""
    store, connected = make(), Server.connected
    reached, goes_on = threading.Event(), threading.Event()

    def slow(*given: Any, **more: Any) -> Any:
        found = connected(*given, **more)
        reached.set()
        assert goes_on.wait(10)
        return found

    monkeypatch.setattr(Server, "connected", slow)
    opening = asyncio.ensure_future(store.open())
    await asyncio.to_thread(reached.wait, 10)
    await store.close()
    goes_on.set()
    await opening
    assert not store._is_open()
    assert await store.claim(a_claim()) is None


def test_without_redis_py_the_extra_is_named() -> None:
    """The library works without it, and only the name of the store asks for it."""
    program = """
import sys
import traceback
sys.modules["redis"] = None
import grpc_idempotency
from grpc_idempotency import aio
for module in (grpc_idempotency, aio):
    try:
        module.RedisStore
    except ModuleNotFoundError as error:
        print(error)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "the Redis store needs redis-py: pip install 'grpc-idempotency[redis]'\n" * 2


def test_the_names_are_public() -> None:
    """Both stores are beside the others."""
    assert grpc_idempotency.RedisStore is RedisStore
    assert aio.RedisStore.__name__ == "AsyncRedisStore"
