"""Several processes on one file, and processes that die (4.1, 6.2, 8)."""

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from grpc_idempotency.records import State
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore

_ROOT = Path(__file__).parents[2]


def start(*arguments: str, warnings: str = "error") -> "subprocess.Popen[str]":
    command = [sys.executable, "-W", warnings, "-m", "tests.stores.worker", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=_ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def run_together(*commands: tuple[str, ...]) -> list[tuple[list[str], list[str]]]:
    """What each of some workers said, and what they complained of; all begin at one time."""
    workers = [start(*command) for command in commands]
    for worker in workers:
        assert worker.stdout is not None
        line = worker.stdout.readline()
        assert line == "ready\n", worker.communicate(timeout=100)[1]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    outputs = [worker.communicate(timeout=100) for worker in workers]
    return [(output.split(), _complaints(errors)) for output, errors in outputs]


def test_processes_on_one_file_win_each_operation_once(path: Path) -> None:
    """Three of them, claiming the same 600 operations from other ends: 600 winners, and each process gets some."""
    outputs = run_together(*(("contend", str(path), "600", str(first), "name") for first in (0, 200, 400)))
    assert not any(complaints for _, complaints in outputs)
    won = [names for names, _ in outputs]
    assert set(Counter(name for names in won for name in names).values()) == {1}
    assert sum(map(len, won)) == 600
    assert all(won)


def test_processes_on_one_file_commit_each_unclaimed_operation_once(path: Path) -> None:
    """Two of them, running the same 200 operations: one set of rows each and one record, of the run that committed."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE pairs (name TEXT, half INTEGER)")
    outputs = run_together(*(("race", str(path), "200") for _ in range(2)))
    assert not any(complaints for _, complaints in outputs)
    # What a worker says is the name of an operation and of its rows' pair, by turns.
    committed = [f"{name} {pair}" for said, _ in outputs for name, pair in zip(said[::2], said[1::2], strict=True)]
    with closing(sqlite3.connect(path)) as db:
        pairs = Counter(name for (name,) in db.execute("SELECT name FROM pairs"))
        records = db.execute("SELECT state, name, message FROM grpc_idempotency_operations ORDER BY name").fetchall()
    assert pairs == dict.fromkeys(committed, 2)
    completed = [(1, pair.split()[0].encode(), pair.encode()) for pair in sorted(committed)]
    assert records == completed
    assert len(records) == 200


def test_processes_on_one_file_both_get_on(path: Path) -> None:
    """Each with its own operations, side by side: nobody is starved into an error."""
    outputs = run_together(*(("contend", str(path), "300", "0", seed) for seed in "ab"))
    assert [(len(names), complaints) for names, complaints in outputs] == [(300, [])] * 2


def _complaints(errors: str) -> list[str]:
    """What was said on stderr, but for the warning of SQLite's bug, which is deserved."""
    return [line for line in errors.splitlines() if not line.startswith("several processes share")]


@pytest.mark.parametrize("lines", [400, *(pytest.param(lines, marks=pytest.mark.slow) for lines in (50, 1500))])
async def test_a_killed_process_loses_nothing_it_acknowledged(path: Path, lines: int) -> None:
    """With kill -9 in the middle of groups: every answer that was given is true, and no transaction is half there."""
    worker = start("hammer", str(path))
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    said = [worker.stdout.readline().split() for _ in range(lines)]
    worker.kill()
    rest = worker.stdout.read()  # communicate would leave out what readline has read ahead
    worker.communicate(timeout=60)
    said += [line.split() for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    store = AsyncSQLiteStore(path)
    for what, name, *step in said:
        if what != "paired":
            await _is_true(store, what, bytes.fromhex(name), *step)
    await store.close()
    paired = {names[0] for what, *names in said if what == "paired"}
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        halves = Counter(name for (name,) in db.execute("SELECT name FROM pairs"))
        steps = db.execute("SELECT result FROM grpc_idempotency_steps WHERE name = 'pair'").fetchall()
    assert set(halves.values()) <= {2}
    assert paired <= set(halves)
    # Acknowledged or not: a step of a transaction is there with its rows, or neither is.
    assert sorted(result.decode() for (result,) in steps) == sorted(name for name in halves if name.startswith("step"))


async def _is_true(store: AsyncSQLiteStore, what: str, name: bytes, *step: str) -> None:
    """Asserts that what a worker said of an operation is so."""
    record = await store.get(name)
    assert record is not None
    if what == "completed":
        assert record.state is State.COMPLETED
    if step:
        assert step in [(one.name, one.result.decode()) for one in await store.steps(name)]


def test_a_process_that_forgets_to_close_ends(path: Path) -> None:
    """At once, without a warning, and with the file in good order."""
    worker = start("forget", str(path))
    output, errors = worker.communicate(timeout=60)
    assert (worker.returncode, errors) == (0, "")
    assert not path.with_name(path.name + "-wal").exists()

    async def look() -> bool:
        store = AsyncSQLiteStore(path)
        record = await store.get(bytes.fromhex(output.strip()))
        await store.close()
        return record is not None

    assert asyncio.run(look())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_opens_the_file_anew(path: Path) -> None:
    """The parent's connection is none of the child's."""
    worker = start("fork", str(path), warnings="default")
    output, errors = worker.communicate(timeout=60)
    assert worker.returncode == 0, errors
    assert len(output.split()) == 3
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM grpc_idempotency_operations").fetchone() == (3,)
