"""The measurements of what grows run; what they find is not asserted here."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bench import scale
from bench.files import TABLE, multiply, multiply_rows, swept
from bench.growth import largest
from bench.rows import Row
from grpc_idempotency import Effects, PostgresStore, SQLiteStore, State
from grpc_idempotency.records import Claim, Code, Fingerprint, Outcome

ROOT = Path(__file__).parents[2]
SIZES = {"keys": 3000, "few": 100, "expired": 3000, "calls": 600, "first-calls": 200, "pairs": 1, "seconds": 0.2}
FIGURES = ["keys-throughput", "keys-memory", "sweep-p99", "sweep-wal", "bytes-per-key", "calls-memory"]


def claimed() -> Claim:
    """A claim of a new operation."""
    return Claim(
        name=os.urandom(32),
        method="/bench.Echo/Say",
        fence=os.urandom(16),
        fingerprint=Fingerprint(raw=b"r" * 32, canonical=b"c" * 32),
        effects=Effects.OPAQUE,
        lease=timedelta(seconds=30),
    )


def filled(folder: Path, count: int, ttl: timedelta) -> Path:
    """A file with so many completed operations."""
    file = folder / "filled.db"
    store = SQLiteStore(file)
    claim = claimed()
    assert store.claim(claim) is None
    assert store.complete(claim.name, claim.fence, Outcome(status=Code.OK, message=b"reply"), ttl)
    store.close()
    added: list[int] = []
    multiply(file, count, added.append)
    assert sum(added) == count - 1
    return file


def test_a_multiplied_file_is_a_stores_file(tmp_path: Path) -> None:
    """The store reads every copy as an operation of its own, and SQLite finds nothing wrong with the file."""
    file = filled(tmp_path, 1200, timedelta(hours=1))
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute(f"SELECT count(DISTINCT name), count(DISTINCT fence) FROM {TABLE}").fetchone() == (1200, 1200)
    store = SQLiteStore(file)
    records = store.list(state=State.COMPLETED, limit=2000)
    assert len(records) == 1200
    record = store.get(records[-1].name)
    assert record is not None
    assert record.outcome is not None
    assert record.outcome.message == b"reply"
    store.close()


def test_what_is_swept_of_a_multiplied_file_is_told(tmp_path: Path) -> None:
    """None before a sweep, as many as the sweep deleted, and all of them once nothing else is left."""
    file = filled(tmp_path, 1200, timedelta(milliseconds=0))
    assert swept(file, 1200) == 0
    store = SQLiteStore(file)
    assert store.sweep(limit=500).deleted == 500
    assert swept(file, 1200) == 500
    assert store.sweep(limit=2000).deleted == 700
    store.close()
    assert swept(file, 1200) == 1200


def test_the_largest_size_of_a_file_is_seen(tmp_path: Path) -> None:
    """What a file had grown to counts when the block ends, also if it came up in it."""
    file = tmp_path / "log"
    with largest(file) as size:
        file.write_bytes(b"x" * 100)
    assert size == [100]


@pytest.mark.parametrize(
    ("value", "at_least", "met"),
    [(2.0, True, True), (1.0, True, False), (2.0, False, False), (1.0, False, True), (None, False, None)],
)
def test_targets_are_least_or_most(value: float | None, at_least: bool, met: bool | None) -> None:
    """A figure that the system does not tell is neither met nor missed."""
    row = Row(name="n", what="w", value=value, unit="", target=1.5, at_least=at_least)
    assert row.met is met


@pytest.mark.slow
@pytest.mark.parametrize("server", ["aio", "sync"])
def test_every_figure_of_growth_is_there(server: str, tmp_path: Path) -> None:
    """One run with tiny sizes measures and shows everything, and finds nothing wrong."""
    file = tmp_path / "figures.json"
    sizes = [part for name, size in SIZES.items() for part in (f"--{name}", str(size))]
    command = [sys.executable, "-m", "bench.scale", *sizes, "--server", server, "--json", str(file)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    written: dict[str, Any] = json.loads(file.read_text())
    assert written["faults"] == []
    assert [figure["name"] for figure in written["figures"]] == FIGURES
    if sys.platform == "linux":
        assert all(figure["value"] is not None for figure in written["figures"])
    assert written["conditions"]["keys"] == SIZES["keys"]
    assert "met" in run.stdout


@pytest.mark.slow
def test_many_keys_on_postgresql_are_compared_with_few(tmp_path: Path) -> None:
    """One run with tiny sizes measures both figures of stored keys on a real server, and finds nothing wrong."""
    file = tmp_path / "figures.json"
    sizes = ["--keys", "3000", "--few", "100", "--pairs", "1", "--seconds", "0.2", "--json", str(file)]
    command = [sys.executable, "-m", "bench.scale", "--store", "postgresql", *sizes]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    written: dict[str, Any] = json.loads(file.read_text())
    assert written["faults"] == []
    assert [figure["name"] for figure in written["figures"]] == ["keys-throughput", "keys-memory"]
    assert "PostgreSQL" in scale.sentence(written["conditions"])


@pytest.mark.slow
def test_multiplied_rows_are_a_stores_rows(postgresql: str) -> None:
    """The store reads every copy as an operation of its own."""
    store = PostgresStore(postgresql)
    claim = claimed()
    assert store.claim(claim) is None
    assert store.complete(claim.name, claim.fence, Outcome(status=Code.OK, message=b"reply"), timedelta(hours=1))
    added: list[int] = []
    multiply_rows(postgresql, 1200, added.append)
    assert sum(added) == 1199
    records = store.list(state=State.COMPLETED, limit=2000)
    assert len({record.name for record in records}) == len({record.fence for record in records}) == 1200
    record = store.get(records[-1].name)
    assert record is not None
    assert record.outcome is not None
    assert record.outcome.message == b"reply"
    store.close()
