"""The shop in a process of somebody else's."""

import sqlite3
from pathlib import Path

import grpc
import grpc.aio
import pytest
from tests.shop.helpers import ScratchStore, create_order, open_shop

from shop.config import Config
from shop.orders.v1.orders_pb2 import GetOrderRequest
from shop.orders.v1.orders_pb2_grpc import OrderServiceStub
from shop.schema import MIGRATIONS, SchemaTooNew, migrate
from shop.server import CannotServe, serving


async def test_it_says_where_it_is_and_leaves_when_it_is_done(tmp_path: Path) -> None:
    """A shop takes a free port, and after it nobody listens there and the file is closed and whole."""
    async with open_shop(tmp_path / "shop.db") as client:
        await client.orders.CreateOrder(create_order())
        host, _, port = client.shop.address.rpartition(":")
        assert (host, int(port) > 0) == ("127.0.0.1", True)
    async with grpc.aio.insecure_channel(client.shop.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as gone:
            await OrderServiceStub(channel).GetOrder(GetOrderRequest(id="order-1"))
    assert gone.value.code() is grpc.StatusCode.UNAVAILABLE
    assert names(tmp_path) == ["shop.db"]


async def test_two_shops_share_a_file(tmp_path: Path) -> None:
    """A second shop on the file sees the orders of the first."""
    async with open_shop(tmp_path / "shop.db") as first, open_shop(tmp_path / "shop.db") as second:
        made = await first.orders.CreateOrder(create_order(request_id="k"))
        assert await second.orders.CreateOrder(create_order(request_id="k")) == made


async def test_a_port_is_not_shared(tmp_path: Path) -> None:
    """A port that is taken is an error at the start, and nothing is made or left open."""
    async with open_shop(tmp_path / "shop.db") as client:
        port = int(client.shop.address.rpartition(":")[2])
        with pytest.raises(CannotServe, match="it is taken"):
            async with serving(Config(port=port, store=f"sqlite:///{tmp_path / 'other' / 'shop.db'}")):
                pass
    assert not (tmp_path / "other").exists()


async def test_a_store_that_can_not_be_opened(tmp_path: Path) -> None:
    """A file that is no database is an error at the start."""
    (tmp_path / "shop.db").write_text("no database" * 1000)
    with pytest.raises(CannotServe, match=r"shop\.db"):
        async with serving(Config(port=0, store=f"sqlite:///{tmp_path / 'shop.db'}")):
            pass


def test_migrations_run_once(scratch: ScratchStore) -> None:
    """Tables that are up to date are left alone; those of a newer shop are refused."""
    before = schema(scratch.db)
    assert scratch.run(migrate) == len(MIGRATIONS)
    assert schema(scratch.db) == before
    scratch.db.execute("UPDATE shop_schema SET version = version + 1")
    with pytest.raises(SchemaTooNew):
        scratch.run(migrate)
    assert schema(scratch.db) == before


def names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


def schema(db: sqlite3.Connection) -> list[object]:
    return db.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
