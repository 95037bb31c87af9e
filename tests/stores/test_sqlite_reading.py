"""Looking changes nothing: a read-only store makes no file and no table, and leaves none behind (6.2, 6.4)."""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from grpc_idempotency.errors import StoreUnavailable, StoreUnusable
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore, SQLiteStore
from grpc_idempotency.testing import OUTCOME, TTL, a_claim, a_step

from .conftest import HandClock, Make, MakeBlocking


def files(path: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in path.parent.iterdir() if not one.name.endswith("-shm")}


async def fill(store: AsyncSQLiteStore) -> Any:
    claim = a_claim()
    assert await store.claim(claim) is None
    assert await store.record_step(claim.name, claim.fence, a_step("a"))
    return claim


async def test_a_file_that_nobody_has_open(make: Make, path: Path, clock: HandClock) -> None:
    """All is read, and the folder is as it was, to the byte."""
    store = make()
    claim = await fill(store)
    await store.close()
    before = files(path)
    assert list(before) == [path.name]
    clock.elapse(timedelta(minutes=1))
    reader = make(read_only=True)
    record = await reader.get(claim.name)
    assert record is not None
    assert record.lapsed
    assert [one.name for one in await reader.list()] == [claim.name]
    assert len(await reader.steps(claim.name)) == 1
    await reader.close()
    assert files(path) == before


async def test_a_file_that_a_server_has_open(make: Make, path: Path) -> None:
    """The server goes on, and the reader sees what it commits."""
    code = f"""if True:
        import sys
        from grpc_idempotency import SQLiteStore
        store = SQLiteStore({str(path)!r}, read_only=True)
        for _ in sys.stdin:
            print(len(store.list()), flush=True)
        store.close()
    """
    store = make()
    await fill(store)
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code], **pipes)  # noqa: ASYNC220  # nothing else is on this loop
    assert process.stdin is not None
    assert process.stdout is not None
    for number in (1, 2):
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"{number}\n"
        await fill(store)
    process.stdin.close()
    assert process.wait(20) == 0
    process.stdout.close()
    assert len(await store.list()) == 3


async def test_nothing_is_written(make: Make, path: Path) -> None:
    """Every call that would write is refused, also where the process writes to the file by another store."""
    store = make()
    claim = await fill(store)
    reader = make(read_only=True)
    for call in (
        lambda: reader.claim(a_claim()),
        lambda: reader.renew(claim.name, claim.fence, TTL),
        lambda: reader.complete(claim.name, claim.fence, OUTCOME, TTL),
        lambda: reader.release(claim.name, claim.fence),
        lambda: reader.sweep(),
        lambda: reader.transaction(lambda db: None),
        lambda: reader.read(lambda db: None),
    ):
        with pytest.raises(StoreUnusable, match="read-only"):
            await call()
    assert [one.name for one in await reader.list()] == [claim.name]
    await reader.close()
    assert await store.complete(claim.name, claim.fence, OUTCOME, TTL)


async def test_nothing_is_made(make: Make, path: Path) -> None:
    """Neither a file, nor the tables of another prefix, nor a migration."""
    with pytest.raises(StoreUnusable, match="no such file"):
        await make(read_only=True).open()
    assert list(path.parent.iterdir()) == []
    store = make()
    await fill(store)
    with pytest.raises(StoreUnusable):
        await make(read_only=True, table_prefix="others_").open()
    await store.close()
    before = files(path)
    with pytest.raises(StoreUnusable):
        await make(read_only=True, table_prefix="others_").open()
    assert files(path) == before


CHILD = """
import os, sys
import asyncio, encodings.ascii, encodings.idna
from grpc_idempotency import SQLiteStore, StoreUnusable
warm = SQLiteStore(sys.argv[2])  # loads all that is needed: nobody else may read this Python's own files
warm.list()
warm.close()
os.setgid(65534)
os.setuid(65534)
try:
    print(len(SQLiteStore(sys.argv[1], read_only=True).list()))
except StoreUnusable:
    print("refused")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_who_looks(tmp_path: Path) -> None:
    """Somebody else who looks, or may not, leaves nothing behind that would keep the server from starting."""
    with tempfile.TemporaryDirectory() as given:
        folder = Path(given)
        folder.chmod(0o777)
        path = folder / "idempotency.db"
        store = SQLiteStore(path)
        claim = a_claim()
        assert store.claim(claim) is None
        store.close()
        for mode, told in ((0o600, "refused\n"), (0o644, "1\n")):
            path.chmod(mode)
            command = [sys.executable, "-c", CHILD, str(path), str(tmp_path / "warm.db")]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
            assert done.stdout == told, done.stderr
            assert [one.name for one in folder.iterdir()] == [path.name]
        assert store.get(claim.name) is not None
        store.close()


def test_a_server_that_starts_meanwhile_is_noticed(make_blocking: MakeBlocking, path: Path) -> None:
    """One call is told so, and the next one reads what is there by then."""
    with closing(make_blocking()) as server:
        server.open()
    with closing(SQLiteStore(path, read_only=True)) as store:
        assert not store.list()
        claim = a_claim()
        make_blocking().claim(claim)
        with pytest.raises(StoreUnavailable, match="changed while it was read"):
            store.list()
        assert [one.name for one in store.list()] == [claim.name]


def test_a_wal_without_an_index_is_left(make_blocking: MakeBlocking, path: Path, tmp_path: Path) -> None:
    """To read it SQLite would make the -shm file."""
    make_blocking().claim(a_claim())
    copy = tmp_path / "copy" / path.name
    copy.parent.mkdir()
    for end in ("", "-wal"):
        shutil.copy(path.with_name(path.name + end), copy.with_name(copy.name + end))
    before = files(copy)
    with pytest.raises(StoreUnusable, match="no -shm file"):
        SQLiteStore(copy, read_only=True).open()
    assert files(copy) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(
    ("running", "command"),
    [
        (True, "ls"),
        (False, "resolve"),
        pytest.param(False, "ls", marks=pytest.mark.slow),
        pytest.param(True, "resolve", marks=pytest.mark.slow),
    ],
)
def test_another_user_leaves_nothing(running: bool, command: str) -> None:
    """A user who may make files in the folder, but not write to the database: the server's next start finds its own."""
    with tempfile.TemporaryDirectory() as given:
        Path(given).chmod(0o777)
        path = Path(given) / "idempotency.db"
        store = SQLiteStore(path)
        store.claim(a_claim())
        if not running:
            store.close()
        before = files(path)
        arguments = [
            command,
            f"sqlite:///{path}",
            *(["00" * 16, "--never-happened", "--yes", "--reason", "x"] if command == "resolve" else []),
        ]
        script = (
            "import os, sys, sqlite3, importlib.metadata, importlib.readers, encodings.ascii, encodings.idna; "
            "from grpc_idempotency.__main__ import main; "
            "from grpc_idempotency.stores.sqlite import SQLiteStore; SQLiteStore('x'); "
            f"os.setuid(65534); sys.exit(main({arguments!r}))"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == (command == "resolve"), done.stderr
        assert files(path) == before
        store.claim(a_claim())
        store.close()
