"""What the page on Redis says is true."""

import os
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

import redis
from grpc_idempotency.records import Note
from grpc_idempotency.testing import OUTCOME, TTL, a_claim, a_step

from ..docs.pages import ROOT, blocks
from ..docs.servers import call, example
from ..harness import valkey
from ..harness.waiting import Gate, until
from .conftest import Make

PAGE = ROOT / "docs" / "how-to" / "redis.md"


@pytest.mark.slow
def test_two_hosts_share_their_keys(tmp_path: Path, server: str) -> None:
    """A retry that comes to another server gets the first reply."""
    with ExitStack() as servers:
        addresses = []
        for name in ("one", "other"):
            (folder := tmp_path / name).mkdir()
            addresses.append(servers.enter_context(example("on_redis.py", folder, REDIS_URL=server)))
        key = ("idempotency-key", os.urandom(8).hex())
        first, how = call(addresses[0], key)
        assert how == "executed"
        for address in addresses:
            assert call(address, key) == (first, "replayed")


@pytest.mark.parametrize("clustered", [False, True])
async def test_the_rights_of_a_user_are_enough(clustered: bool, make: Make, request: pytest.FixtureRequest) -> None:
    """A user with the rights that the page gives can do all that a store does, and nothing outside of its prefix."""
    (line,) = (block for block in blocks(PAGE, "text") if block.startswith("ACL"))
    with ExitStack() as stack:
        if clustered:
            nodes = request.getfixturevalue("cluster")
        else:
            nodes = [stack.enter_context(valkey.started(port=valkey.free_ports(1)[0]))]
        for node in nodes:
            with closing(node.client()) as client:
                client.execute_command(*line.split())
            stack.callback(_drop_user, node)
        url = nodes[0].url.replace("redis://", "redis://shop:secret@")
        stores = [make(url, prefix="grpc_idempotency") for _ in range(2)]
        await _use(*stores)
        with closing(redis.Redis.from_url(url)) as as_user, pytest.raises(Exception, match=r"(?i)no permissions"):
            as_user.set("elsewhere", 1)
        for store in stores:
            await store.close()


async def _use(store: Any, other: Any) -> None:
    claim = a_claim()
    assert await store.claim(claim) is None
    assert await store.record_step(claim.name, claim.fence, a_step("charge"))
    told = Gate()
    end = other.subscribe(told.open)
    await other.open()
    end()
    end = other.subscribe(told.open)

    async def registered() -> bool:
        await other.standing([claim.name])
        return claim.name in other._watch._registered

    await until(registered)
    assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)
    await told.wait()
    end()
    assert [record.name for record in await store.list()][-1:] == [claim.name]
    assert [record.name for record in await store.find(claim.name.hex()[:20])] == [claim.name]
    assert len(await store.count()) == 1
    assert await store.forget(claim.name, claim.fence, Note(by="ann", action="forgotten", reason="a test"))
    assert len(await store.notes(claim.name)) == 1
    await store.pending(["/a.B/C"])
    await store.sweep()


def _drop_user(node: valkey.Valkey) -> None:
    with closing(node.client()) as client:
        client.acl_deluser("shop")
