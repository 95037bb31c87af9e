"""What can be set, and what a wrong setting says."""

import subprocess
import sys
import traceback
from datetime import timedelta
from typing import Any

import pytest

import grpc_idempotency
from grpc_idempotency import Effects, Policy, PolicyError, aio
from grpc_idempotency.errors import StoreUnusable
from grpc_idempotency.stores.redis import RedisStore

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
