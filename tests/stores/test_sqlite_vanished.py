"""The file under a store is removed, replaced or moved: nothing is acknowledged that went into it (6.2)."""

import math
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from grpc_idempotency.errors import StoreUnavailable, StoreUnusable
from grpc_idempotency.stores._sqlite import writer as writer_module
from grpc_idempotency.testing import OUTCOME, TTL, a_claim

from .conftest import Make

if TYPE_CHECKING:
    from grpc_idempotency.stores.sqlite import AsyncSQLiteStore


def remove(path: Path) -> None:
    path.unlink()


def move(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))


def move_all(path: Path) -> None:
    for end in ("", "-wal", "-shm"):
        Path(f"{path}{end}").rename(path.parent / f"moved.db{end}")


def remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def replace_by_an_empty_one(path: Path) -> None:
    path.with_suffix(".new").touch()
    path.with_suffix(".new").rename(path)


def replace_by_a_copy(path: Path) -> None:
    shutil.copy(path, path.with_suffix(".new"))
    path.with_suffix(".new").rename(path)


def forget_log(path: Path) -> None:
    """Removes what belongs to the file that was there before."""
    for end in ("-wal", "-shm"):
        Path(f"{path}{end}").unlink()


def bring_back(path: Path) -> None:
    for end in ("", "-wal", "-shm"):
        moved = path.parent / f"moved.db{end}"
        if moved.exists():
            moved.rename(f"{path}{end}")


WAYS = [remove, move, move_all, remove_folder, replace_by_an_empty_one, replace_by_a_copy]
vanishing = pytest.mark.parametrize("vanish", WAYS, ids=lambda way: way.__name__)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder" / "idempotency.db"


@pytest.mark.parametrize(("check_each", "landed"), [(-1.0, False), (math.inf, None)])
@vanishing
async def test_nothing_is_acknowledged(
    make: Make,
    path: Path,
    vanish: Callable[[Path], None],
    check_each: float,
    landed: bool | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Claims, completions, transactions and reads of the old file are refused, each of them."""
    monkeypatch.setattr(writer_module, "_CHECK_EACH", check_each)
    calls: list[Callable[[AsyncSQLiteStore], Awaitable[Any]]] = [
        lambda store: store.claim(a_claim()),
        lambda store: store.complete(claim.name, claim.fence, OUTCOME, TTL),
        lambda store: store.transaction(lambda db: db.execute("CREATE TABLE mine (x)")),
        lambda store: store.get(claim.name),
        lambda store: store.sweep(),
    ]
    for number, call in enumerate(calls):
        folder = path.parent.parent / f"case {number}"
        folder.mkdir()
        store, claim = make(folder / "idempotency.db"), a_claim()
        assert await store.claim(claim) is None
        vanish(folder / "idempotency.db")
        with pytest.raises(StoreUnavailable, match="was removed, replaced or moved") as caught:
            await call(store)
        assert caught.value.landed is landed
        await store.close()


async def test_a_file_that_is_gone_is_not_made_anew(make: Make, path: Path) -> None:
    """A new one would know of no operation: the store refuses until the file is back, and then goes on."""
    store, claim = make(), a_claim()
    assert await store.claim(claim) is None
    move_all(path)
    with pytest.raises(StoreUnavailable):
        await store.get(claim.name)
    for _ in range(2):
        with pytest.raises(StoreUnusable, match="put it back"):
            await store.claim(a_claim())
    with pytest.raises(StoreUnusable, match="put it back"):
        await make().open()
    assert [one.name for one in path.parent.iterdir() if one.name == path.name] == []
    bring_back(path)
    assert await store.complete(claim.name, claim.fence, OUTCOME, TTL) is not None


async def test_a_file_in_its_place_is_used(make: Make, path: Path) -> None:
    """A restored copy is opened by the next call, and knows what it knew."""
    store, before, after = make(), a_claim(), a_claim()
    assert await store.claim(before) is None
    await store.transaction(lambda db: None)
    with closing(sqlite3.connect(path)) as db, closing(sqlite3.connect(path.with_suffix(".copy"))) as copy:
        db.backup(copy)
    assert await store.claim(after) is None
    path.with_suffix(".copy").rename(path)
    forget_log(path)
    with pytest.raises(StoreUnavailable):
        await store.get(before.name)
    assert await store.get(before.name) is not None
    assert await store.get(after.name) is None


async def test_stores_on_one_file_all_notice(make: Make, path: Path) -> None:
    """Whichever of them asks first; both go on with the file that is there then."""
    first, second = make(), make()
    await first.open()
    await second.open()
    replace_by_an_empty_one(path)
    with pytest.raises(StoreUnavailable):
        await first.claim(a_claim())
    claim = a_claim()
    assert await second.claim(claim) is None
    assert await first.get(claim.name) is not None
