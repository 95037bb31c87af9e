"""Servers killed with -9 between any two steps, in a step and in an undo: all or nothing, each finished step once."""

import asyncio
import collections
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from grpc_idempotency import SQLiteStore, State
from grpc_idempotency.stores._sqlite import rows

from ..harness.clients import Client
from ..harness.processes import Process
from ..harness.replies import Reply, new_key, refused
from ..harness.servers import Servers
from ..harness.waiting import until

pytestmark = pytest.mark.slow

PROGRAM = "workflow"

ALL = [*(f"before {number}" for number in range(4)), "in a", "in c"]
NOTHING = [*(f"before {number} fails" for number in range(1, 4)), "in c fails", "in undo c fails", "in undo a fails"]
LAST = {"retry": "in t", "recovery": "in undo t fails"}
"""Points at which the file's writer stands still: an operation that stops there has to be the last one."""

Start = Callable[..., Process]


@pytest.fixture
def start(kind: str, tmp_path: Path) -> Iterator[Start]:
    """Starts a server process on the file."""
    processes: list[Process] = []
    with closing(sqlite3.connect(tmp_path / "steps.db")) as db:
        db.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, value TEXT)")

    def started(*flags: str) -> Process:
        paths = (str(tmp_path / "steps.db"), str(tmp_path / "effects.txt"))
        processes.append(Process(*paths, kind, *flags, program=PROGRAM))
        return processes[-1]

    yield started
    for process in processes:
        process.discard()


class Calls:
    """Operations that stop at their points, one for each."""

    def __init__(self, kind: str, way: str) -> None:
        self.keys = {point: new_key() for point in (*ALL, *NOTHING, LAST[way])}
        self.inserts = {"stops before its transaction": new_key()} if kind != "thread" else {}
        self.opaque = {"before 2": new_key()}
        self._begun: list[Any] = []

    async def begin(self, client: Client, process: Process) -> None:
        """Starts them all, and waits until each is at its point."""
        everything = [("Insert", self.inserts), ("Opaque", self.opaque), ("Run", self.keys)]
        for method, keys in everything:
            for point, key in keys.items():
                self._begun.append(client.start(method, point, key=key, timeout=60))
                await process.line(f"at {point}")

    async def ended(self) -> None:
        """Their server is gone."""
        replies = await asyncio.gather(*(call.end() for call in self._begun))
        assert {reply.status for reply in replies} == {grpc.StatusCode.UNAVAILABLE}


def check_effects(tmp_path: Path, calls: Calls) -> None:
    """All or nothing of each operation; what had finished before the kill was not done again."""
    lines = (tmp_path / "effects.txt").read_text().splitlines()
    done: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for line in lines:
        what, _, effect = line.partition("|")
        done[what][effect] += 1
    done["before 2"] -= collections.Counter(a=1)  # the opaque one's
    for point in calls.keys:
        expected = collections.Counter(a=1, c=1)
        if point.endswith("fails"):
            expected |= {"undo A": 1, "undo C": 1}
        for effect, stopped_in_it in (("a", "in a"), ("c", "in c"), ("undo A", "in undo a"), ("undo C", "in undo c")):
            # Killed in it, nobody can know whether it was done: it is done again (4.5).
            expected[effect] += point.removesuffix(" fails") == stopped_in_it
        assert done[point] == +expected, point
    with closing(sqlite3.connect(tmp_path / "steps.db")) as db:
        rows = sorted(value for (value,) in db.execute("SELECT value FROM things"))
    committed = [*(point for point in calls.keys if not point.endswith("fails")), *calls.inserts, *calls.opaque]
    assert rows == sorted(committed)


def check_replies(calls: Calls, replies: dict[str, Reply], marks: set[str]) -> None:
    """One agreed outcome for each: all done, or all undone."""
    for point, reply in replies.items():
        if point in calls.inserts:
            assert reply.text == f"inserted {point}"
        elif point.endswith("fails"):
            assert (reply.status, reply.details) == (grpc.StatusCode.NOT_FOUND, "it fails")
        else:
            assert reply.text == "ATC"
        assert reply.mark in marks


async def retry(calls: Calls, client: Client) -> dict[str, Reply]:
    """Every call again, with its key."""
    again = [("Run", point, key) for point, key in calls.keys.items()]
    again += [("Insert", point, key) for point, key in calls.inserts.items()]
    replies = await asyncio.gather(*(_to_its_end(client, *call) for call in again))
    return {point: reply for (_, point, _), reply in zip(again, replies, strict=True)}


async def _to_its_end(client: Client, method: str, point: str, key: str) -> Reply:
    """A server of threads has few places for those who wait: the others are told to come again (4.3)."""
    reply = await client.call(method, point, key=key, timeout=60)
    if reply.reason == "IN_FLIGHT":
        await asyncio.sleep(0.05)
        return await _to_its_end(client, method, point, key)
    return reply


async def test_by_retry(serve: Servers, start: Start, tmp_path: Path) -> None:
    """Killed with -9 anywhere, started again: the retries end it, all or nothing, each finished step once (4.5, 5.2).

    An opaque one is held (4.5).
    """
    calls, process = Calls(serve.kind, "retry"), start("halting")
    await calls.begin(await serve.client(await process.ready()), process)
    process.kill()
    await calls.ended()
    client = await serve.client(await start().ready())
    check_replies(calls, await retry(calls, client), {"executed", "attached"})
    check_effects(tmp_path, calls)
    for point, key in calls.opaque.items():
        refused(await client.call("Opaque", point, key=key), "OUTCOME_UNKNOWN", grpc.StatusCode.FAILED_PRECONDITION)
    check_replies(calls, await retry(calls, client), {"replayed"})


async def test_by_recovery(serve: Servers, start: Start, tmp_path: Path) -> None:
    """Killed with -9 anywhere: another live server ends it without the client, all or nothing (5.2, 5.4).

    A transactional one as well as those with steps; an opaque one is held.
    """
    calls, process, other = Calls(serve.kind, "recovery"), start("halting", "recovering"), start("recovering")
    client = await serve.client(await other.ready())  # before a halted transaction keeps the file locked
    await calls.begin(await serve.client(await process.ready()), process)
    process.kill()
    await calls.ended()

    async def all_over() -> bool:
        with closing(sqlite3.connect(tmp_path / "steps.db")) as db:
            sql = "SELECT state FROM grpc_idempotency_operations WHERE state <> 1"
            return db.execute(sql).fetchall() == [(rows.HELD,)] * len(calls.opaque)

    await until(all_over, 60)
    check_effects(tmp_path, calls)
    check_replies(calls, await retry(calls, client), {"replayed"})
    store = SQLiteStore(tmp_path / "steps.db")
    (record,) = store.list(state=State.HELD)
    store.close()
    assert record.method == "/test.Service/Opaque"
