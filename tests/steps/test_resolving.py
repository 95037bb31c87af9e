"""An operator lists, sees and resolves operations, by the command and by functions (6.4)."""

import io
import json
import re
import secrets
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import (
    Code,
    Effects,
    InvalidOutcome,
    NotHeld,
    OperationNotFound,
    Outcome,
    Policy,
    PolicyError,
    SQLiteStore,
    State,
    StoreUnavailable,
)
from grpc_idempotency.__main__ import main
from grpc_idempotency.operating import completed, framed, never_happened, open_store, operation, operations
from grpc_idempotency.records import Claim, Fingerprint, Step

from ..harness.handlers import Blocking, server_stream
from ..harness.processes import Process
from ..harness.replies import new_key, refused, text
from ..harness.servers import Servers
from ..harness.waiting import Gate, ms
from .test_kills import PROGRAM

METHODS = ("/a.A/One", "/a.A/Two", "/b.B/One")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "operations.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def store(path: Path) -> Any:
    store = SQLiteStore(path)
    store.open()
    yield store
    store.close()


def add(store: SQLiteStore, method: str = METHODS[0], name: bytes | None = None, **options: Any) -> Claim:
    claim = Claim(
        name=name or secrets.token_bytes(16),
        method=method,
        fence=secrets.token_bytes(16),
        fingerprint=Fingerprint(raw=b"r" * 32, canonical=b"c" * 32),
        effects=Effects.OPAQUE,
        lease=options.get("lease", timedelta(seconds=30)),
        streams=options.get("streams", False),
        owner="host:7",
    )
    assert store.claim(claim) is None
    return claim


def held(store: SQLiteStore, name: bytes | None = None, **options: Any) -> Claim:
    claim = add(store, name=name, **options)
    assert store.hold(claim.name, claim.fence, "its server stopped")
    return claim


def complaints(stderr: str) -> list[str]:
    """What the command has said, but for what the store says of a file that several processes share."""
    return [line for line in stderr.splitlines() if not line.startswith("several processes share ")]


Printed = Callable[[], str]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    return lambda: capsys.readouterr().out


# A real held operation


@pytest.mark.parametrize("kind", ["async"])
async def test_a_killed_opaque_handler_is_resolved(serve: Servers, tmp_path: Path) -> None:
    """Killed with -9, held; as completed, a retry gets the outcome; as never happened, a retry runs (4.5, 6.4).

    All is done with the command that the refusal names.
    """
    effects = tmp_path / "effects.txt"
    with closing(sqlite3.connect(serve.path)) as db:
        db.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, value TEXT)")
    args = (str(serve.path), str(effects), "async")
    process, again = Process(*args, "halting", program=PROGRAM), Process(*args, program=PROGRAM)
    try:
        client, keys = await serve.client(await process.ready()), {"in a": new_key(), "before 1": new_key()}
        for point, key in keys.items():
            client.start("Opaque", point, key=key)
            await process.line(f"at {point}")
        process.kill()
        client, names = await serve.client(await again.ready()), {}
        for point, key in keys.items():
            reply = await client.call("Opaque", point, key=key)
            refused(reply, "OUTCOME_UNKNOWN", grpc.StatusCode.FAILED_PRECONDITION)
            named = re.search(r"'grpc-idempotency resolve STORE (\w{32})'", reply.details)
            assert named is not None
            names[point] = named[1]

        message = tmp_path / "message.bin"
        message.write_bytes(text("done by hand").SerializeToString())
        url = f"sqlite:///{serve.path}"
        command_line(url, names["in a"], "--completed", "--message-file", str(message))
        command_line(url, names["before 1"], "--never-happened")

        reply = await client.call("Opaque", "in a", key=keys["in a"])
        assert (reply.text, reply.mark) == ("done by hand", "replayed")
        reply = await client.call("Opaque", "before 1", key=keys["before 1"])
        assert (reply.text, reply.mark) == ("ATC", "executed")
    finally:
        process.discard()
        again.discard()


def command_line(url: str, name: str, *how: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "grpc_idempotency", "resolve", url, name, *how],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, complaints(done.stderr)) == (0, [])
    return done.stdout


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize(
    ("how", "messages", "code"),
    [
        (["--message-file", "one", "--message-file", "two"], ["one", "two"], grpc.StatusCode.OK),
        (["--message-file", "one", "--status", "NOT_FOUND"], ["one"], grpc.StatusCode.NOT_FOUND),
        (["--status", "NOT_FOUND"], [], grpc.StatusCode.NOT_FOUND),
        (["--stream"], [], grpc.StatusCode.OK),
        ([], [], "its response is not given"),
    ],
    ids=["two messages", "a message and a failure", "a failure", "no message", "not given"],
)
async def test_a_stream_is_resolved(
    serve: Servers, tmp_path: Path, how: list[str], messages: list[str], code: grpc.StatusCode | str
) -> None:
    """A stream's outcome is given message by message; a retry gets them all, and the status (4.8, 6.4)."""
    began, go = Gate(), Gate()

    async def do(_request: StringValue, _context: Any) -> Any:
        began.open()
        await go.wait()
        yield text("not this")

    policy = Policy(lease=ms(300), renew_every=ms(100))
    one = await serve({"Do": server_stream(do)}, policy=policy, drain_limit=ms(0))
    key = new_key()
    call = one.start("Do", key=key)
    await began.wait()
    call.cancel()
    await one.stop()
    another = await serve({"Do": server_stream(do)}, policy=policy)
    assert (await another.call("Do", key=key)).status is grpc.StatusCode.FAILED_PRECONDITION
    name = (await another.the_record()).name.hex()
    for file in ("one", "two"):
        (tmp_path / file).write_bytes(text(file).SerializeToString())
    files = [str(tmp_path / word) if word in ("one", "two") else word for word in how]
    assert main(["resolve", f"sqlite:///{serve.path}", name, "--completed", *files]) == 0
    reply = await another.call("Do", key=key)
    assert reply.texts == messages
    if isinstance(code, str):
        assert reply.status is grpc.StatusCode.FAILED_PRECONDITION
        assert "an operator resolved it without giving its response" in reply.details
        assert "too large" not in reply.details
    else:
        assert reply.status is code
    go.open()


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_response_that_the_operator_did_not_give(serve: Servers) -> None:
    """A retry learns that it succeeded, and that an operator resolved it without its response (2.3, 6.4)."""
    handler, key = Blocking(), new_key()
    service = await serve({"Do": handler}, policy=Policy(execution_limit=ms(50)))
    await service.call("Do", key=key)
    assert main(["resolve", f"sqlite:///{serve.path}", (await service.the_record()).name.hex(), "--completed"]) == 0
    reply = await service.call("Do", key=key)
    refused(reply, "RESPONSE_NOT_RETAINED", grpc.StatusCode.FAILED_PRECONDITION)
    assert "succeeded" in reply.details
    assert "an operator resolved it without giving its response" in reply.details
    handler.go.open()


# list


def test_list(store: SQLiteStore, url: str, printed: Printed) -> None:
    """A line for each operation: its name, state, age and method, and what is most worth knowing (6.4)."""
    running, lapsed, kept, done = add(store), add(store, lease=timedelta(microseconds=1)), held(store), add(store)
    assert store.complete(done.name, done.fence, Outcome(status=Code.NOT_FOUND), timedelta(hours=1))
    assert main(["list", url]) == 0
    lines = printed().splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted(
        claim.name.hex() for claim in (running, lapsed, kept, done)
    )
    by_name = {line.split()[0]: line.split(maxsplit=4) for line in lines}
    assert by_name[kept.name.hex()][1:2] + by_name[kept.name.hex()][3:] == ["held", METHODS[0], "its server stopped"]
    assert by_name[done.name.hex()][4] == "NOT_FOUND"
    assert by_name[lapsed.name.hex()][4] == "its server is gone"
    age = datetime.now(timezone.utc) - datetime.fromisoformat(by_name[running.name.hex()][2])
    assert abs(age) < timedelta(minutes=1)


def test_list_of_some(store: SQLiteStore, url: str, printed: Printed) -> None:
    """``--state`` and ``--method``, also a glob, choose (6.4)."""
    claims = [add(store, method) for method in METHODS]
    assert store.hold(claims[0].name, claims[0].fence, "x")
    chosen = {
        ("--state", "held"): {0},
        ("--state", "running"): {1, 2},
        ("--method", METHODS[1]): {1},
        ("--method", "/a.A/*"): {0, 1},
        ("--method", "/a.A/*", "--state", "running"): {1},
        ("--method", "/a.A/Three"): set(),
    }
    for options, numbers in chosen.items():
        assert main(["list", url, "--json", *options]) == 0
        assert {json.loads(line)["operation"] for line in printed().splitlines()} == {
            claims[number].name.hex() for number in numbers
        }


def test_list_of_many(store: SQLiteStore, url: str, printed: Printed) -> None:
    """More than a page are all listed, each once (6.4)."""
    names = {add(store).name.hex() for _ in range(230)}
    assert main(["list", url]) == 0
    lines = printed().splitlines()
    assert len(lines) == 230
    assert {line.split()[0] for line in lines} == names


def test_a_reader_that_has_seen_enough(store: SQLiteStore, url: str) -> None:
    """``list | head`` ends without a traceback (6.4)."""
    for _ in range(300):
        add(store)
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m grpc_idempotency list '{url}' | head -1"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout.count("\n"), complaints(done.stderr)) == (1, [])


# show


def test_show(store: SQLiteStore, url: str, printed: Printed) -> None:
    """One operation by name or by a beginning of it, with its steps; bodies only if asked for (6.4)."""
    claim = add(store, name=b"\xab" * 16)
    add(store, name=b"\xac" * 16)
    assert store.record_step(claim.name, claim.fence, Step(name="charge", position=0, result=b"b\xfe", undoable=True))
    done = Outcome(status=Code.OK, message=b"\xca\xfe", details="a\nb", trailers=(("x-mine", "1"), ("x-bin", b"\1")))
    assert store.complete(claim.name, claim.fence, done, timedelta(hours=1))
    assert main(["show", url, "AB"]) == 0
    shown = printed()
    lines = shown.splitlines()
    assert lines[:2] == [f"operation: {'ab' * 16}", "state: completed"]
    for line in (
        "status: OK",
        "details: a\\nb",
        "message_bytes: 2",
        f"fence: {claim.fence.hex()}",
    ):
        assert line in lines
    (step,) = store.steps(claim.name)
    assert step.recorded_at is not None
    recorded = step.recorded_at.isoformat(timespec="seconds")
    assert f"step: charge undoable {recorded}" in lines
    assert "cafe" not in shown
    assert "x-mine" not in shown
    assert main(["show", url, "ab", "--body"]) == 0
    lines = printed().splitlines()
    for line in ("message: cafe", "trailer: x-mine 1", "trailer: x-bin 01", f"step: charge undoable {recorded} 62fe"):
        assert line in lines
    assert main(["show", url, "ab" * 16, "--json", "--body"]) == 0
    values = json.loads(printed())
    assert values["steps"] == [{"step": "charge", "undoable": True, "recorded": recorded, "result": "62fe"}]
    assert (values["message"], values["details"]) == ("cafe", "a\nb")


def test_what_is_being_undone(store: SQLiteStore, url: str, printed: Printed) -> None:
    """The list and the operation tell for which failure, also when an operator has to go on with it (5.2, 6.4)."""
    claim = add(store)
    failure = Outcome(status=Code.NOT_FOUND, details="no such user", trailers=(("x-mine", "1"),))
    assert store.undo(claim.name, claim.fence, failure)
    assert main(["list", url, "--state", "undoing"]) == 0
    assert printed().rstrip().endswith("failed with NOT_FOUND")
    assert store.wait(claim.name, claim.fence, timedelta(hours=1), 0, 1)
    assert main(["list", url]) == 0
    assert printed().rstrip().endswith("failed with NOT_FOUND")
    assert main(["show", url, claim.name.hex(), "--body"]) == 0
    lines = printed().splitlines()
    for line in (
        "state: waiting",
        "owner: host:7",
        "undo_tries: 1",
        "failure: NOT_FOUND",
        "failure_details: no such user",
        "failure_trailer: x-mine 1",
    ):
        assert line in lines


@pytest.mark.parametrize("name", ["a", "ad", "ab" * 15 + "aa", "xyz", "ab" * 17])
def test_show_of_none(store: SQLiteStore, url: str, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """No such operation, or several: one line says so, and the exit code is 1 (6.4)."""
    add(store, name=b"\xab" * 16)
    add(store, name=b"\xac" * 16)
    assert main(["show", url, name]) == 1
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert error.startswith("grpc-idempotency: ")


# resolve


def test_completed_with_a_failure(store: SQLiteStore, url: str) -> None:
    """Resolved as completed with a status and its details (6.4)."""
    claim = held(store)
    assert (
        main(["resolve", url, claim.name.hex()[:8], "--completed", "--status", "NOT_FOUND", "--details", "gone"]) == 0
    )
    record = store.get(claim.name)
    assert record is not None
    assert record.outcome == Outcome(status=Code.NOT_FOUND, details="gone")


def test_completed_with_a_message_from_standard_input(
    store: SQLiteStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--message-file -`` reads the response from standard input; ``--ttl`` says how long it is kept (6.4)."""
    claim = held(store)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\n\x02hi")))
    assert main(["resolve", url, claim.name.hex(), "--completed", "--message-file", "-", "--ttl", "60"]) == 0
    record = store.get(claim.name)
    assert record is not None
    assert record.outcome == Outcome(status=Code.OK, message=b"\n\x02hi")
    assert record.expires_at is not None
    assert record.completed_at is not None
    assert timedelta(seconds=55) < record.expires_at - record.completed_at < timedelta(seconds=65)


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    "how", [["--stream"], ["--message-file", "{file}"] * 2, ["--message-file", "{file}", "--status", "NOT_FOUND"]]
)
def test_an_outcome_of_the_other_kind(
    store: SQLiteStore, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], streams: bool, how: list[str]
) -> None:
    """An outcome that the method can't have is refused in one line, and nothing is changed (4.8, 6.4)."""
    (tmp_path / "message").write_bytes(b"m")
    claim = held(store, streams=streams)
    how = [word.format(file=tmp_path / "message") for word in how]
    assert main(["resolve", url, claim.name.hex(), "--completed", *how]) == (0 if streams else 1)
    assert (capsys.readouterr().err.count("\n") == 1) is not streams
    record = store.get(claim.name)
    assert record is not None
    assert record.state is (State.COMPLETED if streams else State.HELD)


@pytest.mark.parametrize("message", [b"", framed([]), framed([b"", b"one"])])
def test_a_streams_messages_are_framed(store: SQLiteStore, message: bytes) -> None:
    """A program gives a stream's messages framed; what is not is refused, and nothing is changed (4.8, 6.4)."""
    claim = held(store, streams=True)
    for wrong in (b"o", b"one", message + b"\0\0\0\2o"):
        with pytest.raises(InvalidOutcome, match="framed"):
            completed(store, operation(store, claim.name.hex()), Outcome(status=Code.OK, message=wrong))
    completed(store, operation(store, claim.name.hex()), Outcome(status=Code.OK, message=message))
    record = store.get(claim.name)
    assert record is not None
    assert record.outcome == Outcome(status=Code.OK, message=message)


def test_only_what_is_held(store: SQLiteStore, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An operation that is not held can't be resolved: one line says so, with exit code 1 (6.4)."""
    claim = add(store)
    assert main(["resolve", url, claim.name.hex(), "--never-happened"]) == 1
    assert "is running, not held" in capsys.readouterr().err
    assert store.get(claim.name) is not None


def test_what_has_changed_meanwhile(store: SQLiteStore) -> None:
    """A record that was resolved, run and held again since it was read is left as it is (4.2, 6.4)."""
    claim = held(store)
    seen = operation(store, claim.name.hex())
    assert store.resolve(claim.name, claim.fence, None, timedelta(1))
    held(store, claim.name)
    with pytest.raises(NotHeld, match="changed meanwhile"):
        never_happened(store, seen)
    with pytest.raises(NotHeld, match="changed meanwhile"):
        completed(store, seen, Outcome(status=Code.OK))
    record = store.get(claim.name)
    assert record is not None
    assert record.state is State.HELD


def test_the_fence_that_was_shown(store: SQLiteStore, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``--fence`` holds the command to the run that the operator has looked at (4.2, 6.4)."""
    claim = held(store)
    assert main(["resolve", url, claim.name.hex(), "--never-happened", "--fence", "00" * 16]) == 1
    assert "was claimed again" in capsys.readouterr().err
    assert main(["resolve", url, claim.name.hex(), "--never-happened", "--fence", claim.fence.hex().upper()]) == 0
    assert store.get(claim.name) is None


# Usage


@pytest.mark.parametrize(
    "wrong",
    [
        ["list"],
        ["erase", "sqlite:///x.db"],
        ["list", "sqlite:///x.db", "--state", "odd"],
        ["resolve", "{url}", "ab"],
        ["resolve", "{url}", "ab", "--completed", "--never-happened"],
        ["resolve", "{url}", "ab", "--never-happened", "--status", "NOT_FOUND"],
        ["resolve", "{url}", "ab", "--completed", "--status", "FINE"],
        *[
            ["resolve", "{url}", "ab", "--completed", "--ttl", ttl]
            for ttl in ("0", "-1", "3155760001", "9" * 5000, "x")
        ],
    ],
)
def test_wrong_usage(store: SQLiteStore, url: str, wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A command that is none is told, with exit code 2, and nothing is done (6.4)."""
    claim = held(store, b"\xab" * 16)
    with pytest.raises(SystemExit) as left:
        main([part.format(url=url) for part in wrong])
    assert left.value.code == 2
    assert "error: " in capsys.readouterr().err
    record = store.get(claim.name)
    assert record is not None
    assert record.state is State.HELD


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("postgresql://me:s3cret@host/db", "PostgreSQL stores (postgresql://) are not supported yet."),
        ("redis://:s3cret@host", "Redis stores (redis://) are not supported yet."),
        ("mysql://s3cret", "A store's URL must be sqlite:///FILE"),
        ("s3cret.db", "A store's URL must be sqlite:///FILE"),
        ("sqlite://s3cret", "A store's URL must be sqlite:///FILE"),
        ("sqlite:///", "A store's URL must be sqlite:///FILE"),
    ],
)
def test_urls(bad: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A URL that names no store is told in one line that repeats nothing of it, with exit code 2 (6.4)."""
    assert main(["list", bad]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert (error.count("\n"), "s3cret" in error) == (1, False)


def test_a_relative_path(store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed) -> None:
    """``sqlite:///FILE`` is a file in this folder (6.4, 9.3)."""
    claim = add(store)
    monkeypatch.chdir(path.parent)
    assert main(["list", f"sqlite:///{path.name}"]) == 0
    assert claim.name.hex() in printed()


def test_another_prefix(path: Path, url: str, printed: Printed) -> None:
    """``--table-prefix`` finds operations under other tables' names; without it there are none (6.2, 6.4)."""
    own = SQLiteStore(path, table_prefix="mine_")
    claim = add(own)
    own.close()
    assert main(["list", url, "--table-prefix", "mine_"]) == 0
    assert claim.name.hex() in printed()
    assert main(["list", url]) == 1
    with closing(sqlite3.connect(path)) as db:
        assert not [name for (name,) in db.execute("SELECT name FROM sqlite_master") if name.startswith("grpc")]


@pytest.mark.parametrize(
    "command", [["list", "{url}"], ["show", "{url}", "ab"], ["resolve", "{url}", "ab", "--completed"]]
)
@pytest.mark.parametrize("what", ["nothing", "folder", "other database", "no database", "empty"])
def test_nothing_is_made(
    path: Path, url: str, command: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is not there, or is none of ours, is left so; told in one line, exit code 1 (6.4)."""
    if what == "folder":
        path.mkdir()
    elif what == "other database":
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE mine (x)")
    elif what != "nothing":
        path.write_bytes(b"no database " * 100 * (what == "no database"))
    before = path.read_bytes() if path.is_file() else None
    assert main([part.format(url=url) for part in command]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert (path.read_bytes() if path.is_file() else None) == before
    assert [one for one in path.parent.iterdir() if one != path] == []
    assert path.exists() == (what != "nothing")


# Functions


def test_the_same_as_functions(store: SQLiteStore, url: str) -> None:
    """A program can do all that the command does (6.4)."""
    first, second = held(store), held(store)
    with open_store(url) as opened:
        assert {record.name for record in operations(opened, state=State.HELD)} == {first.name, second.name}
        completed(opened, operation(opened, first.name.hex()), Outcome(status=Code.OK, message=b""))
        never_happened(opened, operation(opened, second.name.hex()))
        with pytest.raises(OperationNotFound):
            operation(opened, second.name.hex())
        assert [record.state for record in operations(opened)] == [State.COMPLETED]


def test_functions_raise(tmp_path: Path) -> None:
    """A URL that is none raises PolicyError, a store that is not there StoreUnavailable (6.4)."""
    with pytest.raises(PolicyError), open_store("mysql://x"):
        pass
    with pytest.raises(StoreUnavailable), open_store(f"sqlite:///{tmp_path / 'none.db'}"):
        pass
