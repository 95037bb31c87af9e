"""The program and the commands with which an operator resolves held operations do what the page says."""

import os
import runpy
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from grpc_idempotency import Code, Effects, Outcome
from grpc_idempotency.aio import SQLiteStore
from grpc_idempotency.records import Claim, Fingerprint
from shop.orders.v1.orders_pb2 import Order

from .pages import EXAMPLES, ROOT, blocks
from .servers import shell


@pytest.mark.slow
async def test_example_of_an_operators_program(tmp_path: Path) -> None:
    """What made an order is completed with it, what made none never happened."""
    resolving: Any = runpy.run_path(str(EXAMPLES / "resolving.py"))
    store = SQLiteStore(tmp_path / "held.db")
    names = [await _held(store), await _held(store)]
    held = resolving["resolve_all"](f"sqlite:///{tmp_path / 'held.db'}", {names[1].hex(): Order(id="o1")})
    assert {record.name for record in held} == set(names)
    assert await store.get(names[0]) is None
    record = await store.get(names[1])
    assert record is not None
    assert record.outcome is not None
    assert record.outcome.message == Order(id="o1").SerializeToString()
    await store.close()


@pytest.mark.slow
async def test_commands_of_an_operator(tmp_path: Path) -> None:
    """The commands of the page, in their order, do what it says."""
    store = SQLiteStore(tmp_path / "orders.db")
    names = [await _held(store), await _held(store)]
    placing, explaining, listing, showing, never, done = blocks(ROOT / "docs/how-to/resolving.md", "sh")

    def command(text: str, name: bytes = b"") -> str:
        return shell(placing + text.replace("5f0c6ba4", name.hex()[:8]), tmp_path)

    assert "resolves it" in command(explaining)
    listed = command(listing)
    assert all(f"{name.hex()}  held" in listed for name in names)
    assert f"operation    {names[0].hex()}" in command(showing, names[0])
    for text, name in ((never, names[0]), (done, names[1])):
        command(text.rstrip() + " --yes\n", name)  # there is no terminal to ask at
    assert command(listing) == ""
    [record] = await store.list()
    assert (record.name, record.outcome) == (
        names[1],
        Outcome(status=Code.OK, message=Order(id="order-7").SerializeToString()),
    )
    assert [note.reason for note in await store.notes(names[0])] == ["not in the ledger"]
    await store.close()


async def _held(store: SQLiteStore) -> bytes:
    name, fence = os.urandom(16), os.urandom(16)
    claim = Claim(
        name=name,
        method="/shop.orders.v1.OrderService/CreateOrder",
        fence=fence,
        fingerprint=Fingerprint(raw=b"r" * 32, canonical=b"c" * 32),
        effects=Effects.OPAQUE,
        lease=timedelta(seconds=30),
    )
    assert await store.claim(claim) is None
    assert await store.hold(name, fence, "its server stopped")
    return name
