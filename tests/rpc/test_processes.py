"""Real server processes: several on one file, killed, stopped and forgotten (4.1, 4.4, 4.5, 8)."""

import asyncio
import collections
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from grpc_idempotency import State
from grpc_idempotency.aio import SQLiteStore

from ..harness.clients import Client
from ..harness.handlers import EACH_SERVER
from ..harness.processes import Process
from ..harness.replies import new_key, refused, text
from ..harness.servers import Servers

pytestmark = pytest.mark.slow

KINDS = ("async",)  # of the server in this process, where there is one; those in processes of their own are on aio

# A client that comes back soon after a server was killed.
PROMPT = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]

Start = Callable[..., Process]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "shared.db"


@pytest.fixture
def effects(tmp_path: Path) -> Path:
    return tmp_path / "effects.txt"


@pytest.fixture
def start(database: Path, effects: Path) -> Iterator[Start]:
    """Starts a server process on the file."""
    processes: list[Process] = []

    def started(port: str = "0") -> Process:
        processes.append(Process(str(database), str(effects), port))
        return processes[-1]

    yield started
    for process in processes:
        process.discard()


def rows(database: Path) -> list[tuple[int, str]]:
    with closing(sqlite3.connect(database)) as db:
        return list(db.execute("SELECT id, value FROM things ORDER BY id"))


def lines(effects: Path) -> list[str]:
    return effects.read_text().splitlines()


# Several processes


async def test_two_processes_on_one_file(serve: Servers, start: Start, effects: Path) -> None:
    """200 calls over 20 keys to two server processes on one file are 20 executions (4.1, 4.3)."""
    processes = [start(), start()]
    clients = [await serve.client(await process.ready()) for process in processes]
    keys = [new_key() for _ in range(20)]
    replies = await asyncio.gather(
        *(clients[n // 20 % 2].call("Append", f"order number {n % 20}", key=keys[n % 20]) for n in range(200))
    )
    assert sorted(lines(effects)) == sorted(f"order number {n}" for n in range(20))
    texts: dict[int, set[str]] = collections.defaultdict(set)
    for n, reply in enumerate(replies):
        texts[n % 20].add(reply.text)
    assert [len(one) for one in texts.values()] == [1] * 20
    assert collections.Counter(reply.mark for reply in replies)["executed"] == 20


async def test_a_process_waits_for_the_other(serve: Servers, start: Start, effects: Path) -> None:
    """A duplicate at another process waits for the run by polling, and gets its reply (4.3)."""
    one, other = start(), start()
    client, elsewhere = [await serve.client(await process.ready()) for process in (one, other)]
    key = new_key()
    first = asyncio.ensure_future(client.call("Linger", "a long one", key=key))
    await one.line("began a long one")
    second = asyncio.ensure_future(elsewhere.call("Linger", "a long one", key=key))
    one.terminate()
    replies = await asyncio.gather(first, second)
    assert [reply.mark for reply in replies] == ["executed", "attached"]
    assert replies[0].plain == replies[1].plain
    assert await one.ended() == 0


# kill -9


async def test_killed_in_an_opaque_handler(serve: Servers, start: Start, effects: Path) -> None:
    """Kill -9 in an opaque handler: a retry gets OUTCOME_UNKNOWN, and the effect is there at most once (4.5)."""
    process = start()
    client = await serve.client(await process.ready())
    key = new_key()
    call = client.start("Append", "hang for ever", key=key)
    await process.line("began hang for ever")
    process.kill()
    assert (await call.end()).status is grpc.StatusCode.UNAVAILABLE
    retry = await serve.client(await start().ready())
    for _ in range(2):
        reply = await retry.call("Append", "hang for ever", key=key)
        refused(reply, "OUTCOME_UNKNOWN", grpc.StatusCode.FAILED_PRECONDITION)
        assert "its server stopped" in reply.details
    assert lines(effects) == ["hang for ever"]


async def test_killed_in_a_transactional_handler(serve: Servers, start: Start, database: Path) -> None:
    """Kill -9 in a transactional handler: a retry runs again, and there is one row (4.5, 5.1)."""
    process = start()
    client = await serve.client(await process.ready())
    key = new_key()
    call = client.start("Insert", "hang at first", key=key)
    await process.line("began hang at first")
    process.kill()
    assert (await call.end()).status is grpc.StatusCode.UNAVAILABLE
    retry = await serve.client(await start().ready())
    replies = [await retry.call("Insert", "hang at first", key=key) for _ in range(2)]
    assert [(reply.text, reply.mark) for reply in replies] == [("row 1", "executed"), ("row 1", "replayed")]
    assert rows(database) == [(1, "hang at first")]


async def test_killed_right_after_the_reply(serve: Servers, start: Start, database: Path, effects: Path) -> None:
    """Kill -9 right after the reply, restart, retry: the same reply (4.1)."""
    process = start()
    client = await serve.client(await process.ready())
    keys = {method: new_key() for method in ("Append", "Insert")}
    first = {method: await client.call(method, "once and for all", key=key) for method, key in keys.items()}
    process.kill()
    retry = await serve.client(await start().ready())
    for method, key in keys.items():
        reply = await retry.call(method, "once and for all", key=key)
        assert (reply.plain, reply.mark) == (first[method].plain, "replayed")
    assert lines(effects) == ["once and for all"]
    assert rows(database) == [(1, "once and for all")]


async def _insert(client: Client, name: str) -> str:
    """Retries with one key until there is a reply; asks once more, to see that it is the reply."""
    key = new_key()
    while True:
        reply = await client.call("Insert", text(name), key=key, timeout=15)
        if reply.status is grpc.StatusCode.OK:
            break
        assert reply.status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED), reply
        await asyncio.sleep(0.05)
    again = await client.call("Insert", text(name), key=key, timeout=15)
    assert again.status is not grpc.StatusCode.OK or again.text == reply.text
    return reply.text


async def test_killed_twenty_times_under_load(serve: Servers, start: Start, database: Path) -> None:
    """Kill -9 while handlers run, 20 times, with clients that retry: each key has one row and one reply (4.5, 5.1).

    Two servers share the file, so that one starts again while the other is under load.
    """
    running = [start(), start()]
    ports = [(await process.ready()).rpartition(":")[2] for process in running]
    both = ",".join(f"127.0.0.1:{port}" for port in ports)
    client = await serve.client(f"ipv4:{both}", options=[*PROMPT, ("grpc.lb_policy_name", "round_robin")])
    replies: dict[str, str] = {}
    over = asyncio.Event()

    async def worker(number: int) -> None:
        count = 0
        while not over.is_set():
            name = f"row {count} of {number}"
            replies[name] = await _insert(client, name)
            count += 1

    workers = [asyncio.ensure_future(worker(number)) for number in range(6)]
    for turn in range(20):
        if turn > 1:
            await running[turn % 2].ready()
        for _ in range(1 + turn % 5):
            await running[turn % 2].line("began ")
        running[turn % 2].kill()
        running[turn % 2] = start(ports[turn % 2])
    over.set()
    await asyncio.gather(*workers)
    assert {value: f"row {id_}" for id_, value in rows(database)} == replies
    assert len(rows(database)) == len(replies) >= 6


# Stopped


async def test_stopped_with_nobody_watching(serve: Servers, start: Start, database: Path) -> None:
    """SIGTERM with nobody watching: the outcome is stored, exit code 0; a retry after a restart replays (4.4, 8)."""
    process = start()
    client = await serve.client(await process.ready())
    key = new_key()
    call = client.start("Linger", "nobody watches", key=key)
    await process.line("began nobody watches")
    call.cancel()
    await asyncio.sleep(0.1)
    process.terminate()
    assert await process.ended() == 0, process.seen
    store = SQLiteStore(database)
    (record,) = await store.list()
    await store.close()
    assert record.state is State.COMPLETED
    retry = await serve.client(await start().ready())
    reply = await retry.call("Linger", "nobody watches", key=key)
    assert (reply.text, reply.mark) == ("lingered nobody watches", "replayed")


@pytest.mark.parametrize("kind", EACH_SERVER)
async def test_a_process_that_forgets_to_close_ends(tmp_path: Path, kind: str) -> None:
    """Without attach, stop or close a process still ends, with exit code 0 and without a warning (8)."""
    process = Process(str(tmp_path / "x.db"), program="forgetful_sync" if kind == "sync" else "forgetful")
    try:
        assert await process.ended() == 0, process.seen
        assert process.seen == [r"b'\n\x02hi' executed", r"b'\n\x02hi' replayed"]
    finally:
        process.discard()


# After the call


@pytest.mark.parametrize("method", ["Ask", "AskOnThread"])
async def test_every_method_of_a_context_after_its_call(serve: Servers, start: Start, method: str) -> None:
    """After its call a handler may ask its context anything: no crash, and its outcome is recorded (4.4)."""
    process = start()
    client = await serve.client(await process.ready())
    key = new_key()
    call = client.start(method, "ask everything", key=key)
    await process.line("began ask everything")
    call.cancel()
    client_again = await serve.client(process.target)
    await asyncio.sleep(0.2)
    await client_again.call("Let")
    await process.line("asked abort_with_status")
    kind = grpc.aio.ServicerContext if method == "Ask" else grpc.ServicerContext
    asked = {line.removeprefix("asked ") for line in process.seen if line.startswith("asked ")}
    assert asked == {name for name in dir(kind) if not name.startswith("_")}
    reply = await client_again.call(method, "ask everything", key=key)
    assert (reply.status, reply.details) == (grpc.StatusCode.OUT_OF_RANGE, "asked everything")
    assert reply.plain.trailers == (("x-asked", "1"),)
    process.terminate()
    assert await process.ended() == 0, process.seen
