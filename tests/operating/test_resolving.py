"""An operator resolves held operations, by the command and by functions (6.4)."""

import getpass
import io
import json
import re
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Code, InvalidOutcome, NotHeld, Outcome, Policy, SQLiteStore, State
from grpc_idempotency.__main__ import main
from grpc_idempotency.operating import completed, framed, never_happened, operation
from grpc_idempotency.records import Claim
from shop.orders.v1.orders_pb2 import Order

from ..harness.handlers import Blocking, server_stream
from ..harness.processes import Process
from ..harness.replies import new_key, refused, text
from ..harness.servers import Servers
from ..harness.waiting import Gate, ms
from .operations import METHODS, REASON, Printed, add, held, lapsed

ORDERS = "/shop.orders.v1.OrderService/CreateOrder"
TYPES = ("--module", "shop.orders.v1.orders_pb2")

# Real held operations


@pytest.mark.parametrize("kind", ["async"])
async def test_a_killed_opaque_handler_is_resolved(serve: Servers, tmp_path: Path) -> None:
    """Killed with -9, held; as completed, a retry gets the outcome; as never happened, a retry runs (4.5, 6.4).

    All is done with the command that the refusal names.
    """
    effects = tmp_path / "effects.txt"
    with closing(sqlite3.connect(serve.path)) as db:
        db.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, value TEXT)")
    args = (str(serve.path), str(effects), "async")
    process, again = Process(*args, "halting", program="workflow"), Process(*args, program="workflow")
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
        command_line(url, names["in a"], "--completed", "--message-file", str(message), *REASON)
        command_line(url, names["before 1"], "--never-happened", *REASON)

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
    assert done.returncode == 0, done.stderr
    assert name in done.stderr  # it was shown
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
    assert main(["resolve", f"sqlite:///{serve.path}", name, "--completed", *files, *REASON]) == 0
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
async def test_a_response_that_the_operator_did_not_give(serve: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    """A retry learns that it succeeded, and that an operator resolved it without its response (2.3, 6.4).

    The operator is told beforehand.
    """
    handler, key = Blocking(), new_key()
    service = await serve({"Do": handler}, policy=Policy(execution_limit=ms(50)))
    await service.call("Do", key=key)
    name = (await service.the_record()).name.hex()
    assert main(["resolve", f"sqlite:///{serve.path}", name, "--completed", *REASON]) == 0
    assert "refused as RESPONSE_NOT_RETAINED" in capsys.readouterr().err
    reply = await service.call("Do", key=key)
    refused(reply, "RESPONSE_NOT_RETAINED", grpc.StatusCode.FAILED_PRECONDITION)
    assert "succeeded" in reply.details
    assert "an operator resolved it without giving its response" in reply.details
    handler.go.open()


# resolve


def resolve(url: str, claim: Claim, *how: str) -> int:
    """The exit code of the command, as a script calls it."""
    return main(["resolve", url, claim.name.hex(), *how, *REASON])


def outcome(store: SQLiteStore, claim: Claim) -> Outcome | None:
    record = store.get(claim.name)
    assert record is not None
    return record.outcome


def test_completed_with_a_failure(store: SQLiteStore, url: str, printed: Printed) -> None:
    """Resolved as completed with a status and its details; who, when and why stays with it (6.4)."""
    claim = held(store)
    how = ["--completed", "--status", "NOT_FOUND", "--details", "gone"]
    assert main(["resolve", url, claim.name.hex()[:8], *how, *REASON, "--json"]) == 0
    assert json.loads(printed()) == {
        "operation": claim.name.hex(),
        "resolved": "completed",
        "status": "NOT_FOUND",
        "by": "ann@desk",
        "reason": "ticket 7",
    }
    assert outcome(store, claim) == Outcome(status=Code.NOT_FOUND, details="gone")
    [note] = store.notes(claim.name)
    assert (note.by, note.action, note.reason) == ("ann@desk", "completed", "ticket 7")
    assert note.at is not None
    assert abs(datetime.now(timezone.utc) - note.at) < timedelta(minutes=1)


def test_who_did_it(store: SQLiteStore, url: str) -> None:
    """Without ``--by`` it is the user of the process, on this host (6.4)."""
    claim = held(store)
    assert main(["resolve", url, claim.name.hex(), "--never-happened", "--yes", "--reason", "x"]) == 0
    [note] = store.notes(claim.name)
    assert note.by == f"{getpass.getuser()}@{socket.gethostname()}"


def test_completed_with_a_message_from_standard_input(
    store: SQLiteStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--message-file -`` reads the response from standard input; ``--ttl`` says how long it is kept (6.4)."""
    claim = held(store)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\n\x02hi")))
    assert resolve(url, claim, "--completed", "--message-file", "-", "--ttl", "1m") == 0
    record = store.get(claim.name)
    assert record is not None
    assert record.outcome == Outcome(status=Code.OK, message=b"\n\x02hi")
    assert record.expires_at is not None
    assert record.completed_at is not None
    assert timedelta(seconds=55) < record.expires_at - record.completed_at < timedelta(seconds=65)


@pytest.mark.parametrize("how", ["text", "file"])
def test_completed_with_a_message_in_json(
    store: SQLiteStore, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    """``--message-json`` takes the response as JSON, and shows it before it is stored (6.4)."""
    (tmp_path / "order.json").write_text('{"id": "order-7"}')
    claim = held(store, method=ORDERS)
    given = '{"id": "order-7"}' if how == "text" else f"@{tmp_path / 'order.json'}"
    assert resolve(url, claim, "--completed", "--message-json", given, *TYPES) == 0
    assert outcome(store, claim) == Outcome(status=Code.OK, message=Order(id="order-7").SerializeToString())
    assert 'outcome: OK\n  {"id": "order-7"}\n' in capsys.readouterr().err


def test_a_stream_in_json_and_in_files(store: SQLiteStore, url: str, tmp_path: Path) -> None:
    """The messages of a stream are given one by one, in either form, in their order (4.8)."""
    (tmp_path / "two").write_bytes(Order(id="two").SerializeToString())
    claim = held(store, method=ORDERS, streams=True)
    one, two, three = ('{"id": "one"}', str(tmp_path / "two"), '{"id": "three"}')
    given = ["--message-json", one, "--message-file", two, "--message-json", three]
    assert resolve(url, claim, "--completed", *given, *TYPES) == 0
    messages = [Order(id=name).SerializeToString() for name in ("one", "two", "three")]
    assert outcome(store, claim) == Outcome(status=Code.OK, message=framed(messages))


@pytest.mark.parametrize(
    ("how", "code", "says"),
    [
        (["--message-json", "{}"], 2, "--message-json needs the type"),
        (["--message-json", '{"idea": 1}', *TYPES], 1, "no shop.orders.v1.Order in JSON"),
        (["--message-json", "@missing", *TYPES], 1, "missing"),
        (["--message-json", "@{bad}", *TYPES], 1, "no shop.orders.v1.Order in JSON"),
        (["--message-json", '{"id": "\udcff"}', *TYPES], 1, "no shop.orders.v1.Order in JSON"),
        (["--message-file", "{bad}", *TYPES], 1, "not a shop.orders.v1.Order"),
        (["--message-json", "{}", "--module", "no_such_module"], 1, "can't be imported"),
    ],
)
def test_a_message_that_can_not_be_read(
    store: SQLiteStore,
    url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    how: list[str],
    code: int,
    says: str,
) -> None:
    """A message that is not the method's response is told in one line, and nothing is changed (6.4)."""
    (tmp_path / "bad").write_bytes(b"\xff")
    claim = held(store, method=ORDERS)
    assert resolve(url, claim, "--completed", *(word.replace("{bad}", str(tmp_path / "bad")) for word in how)) == code
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert outcome(store, claim) is None


@pytest.mark.parametrize("option", ["--details", "--by", "--reason"])
def test_text_that_can_not_be_kept(
    store: SQLiteStore, url: str, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    """Bytes of a command line that are no text are told in one line, and nothing is changed."""
    claim = held(store)
    given = ["resolve", url, claim.name.hex(), "--completed", *REASON, option, "\udcff"]
    assert main(given) == 1
    assert "can't store what it was given" in capsys.readouterr().err.splitlines()[-1]
    assert outcome(store, claim) is None
    assert store.notes(claim.name) == []


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
    assert resolve(url, claim, "--completed", *how) == (0 if streams else 1)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("grpc-idempotency: ")]
    assert len(told) == (0 if streams else 1)
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
    assert outcome(store, claim) == Outcome(status=Code.OK, message=message)


def test_only_what_is_held(store: SQLiteStore, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An operation that is not held can't be resolved: one line says so, with exit code 1 (6.4)."""
    claim = add(store)
    assert resolve(url, claim, "--never-happened") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "is running, not held" in line
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


@pytest.mark.parametrize("command", [["resolve", "--never-happened"], ["forget"]], ids=["resolve", "forget"])
def test_the_fence_that_was_shown(
    store: SQLiteStore, url: str, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """``--fence`` holds the command to the run that the operator has looked at (4.2, 6.4)."""
    claim = held(store)
    given = [command[0], url, claim.name.hex(), *command[1:], *REASON, "--fence"]
    assert main([*given, "00" * 16]) == 1
    assert "was claimed again" in capsys.readouterr().err
    assert main([*given, claim.fence.hex().upper()]) == 0
    assert store.get(claim.name) is None


@pytest.mark.parametrize("command", [["resolve", "--never-happened"], ["forget"]], ids=["resolve", "forget"])
@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ([], "--yes and --reason"),
        (["--yes"], "--reason"),
        (["--reason", "x"], "--yes"),
        (["--yes", "--reason", ""], "--reason"),
    ],
)
def test_a_script_says_yes_and_why(
    store: SQLiteStore, url: str, capsys: pytest.CaptureFixture[str], command: list[str], given: list[str], missing: str
) -> None:
    """Without a terminal nothing is changed unless the command line says yes, and why (6.4)."""
    claim = held(store)
    assert main([command[0], url, claim.name.hex(), *command[1:], *given]) == 2
    error = capsys.readouterr().err
    assert error == f"grpc-idempotency: this changes an operation; without a terminal it needs {missing}\n"
    assert outcome(store, claim) is None
    assert store.notes(claim.name) == []


def test_the_operation_is_shown(store: SQLiteStore, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is about to be changed is shown beside the result, which alone is on standard output (6.4)."""
    claim = held(store)
    assert resolve(url, claim, "--never-happened") == 0
    out, error = capsys.readouterr()
    assert out == f"{claim.name.hex()} never happened\n"
    assert "its server stopped" in error
    assert claim.fence.hex() in error


# forget


@pytest.mark.parametrize("state", ["completed", "held", "waiting", "lapsed"])
def test_forget(store: SQLiteStore, url: str, printed: Printed, state: str) -> None:
    """An operation is made absent, so that its key runs again; who, when and why is kept (6.4)."""
    claim = lapsed(store) if state == "lapsed" else add(store)
    if state == "completed":
        assert store.complete(claim.name, claim.fence, Outcome(status=Code.OK, message=b"m"), timedelta(1))
    elif state == "held":
        assert store.hold(claim.name, claim.fence, "x")
    elif state == "waiting":
        assert store.wait(claim.name, claim.fence, timedelta(hours=1), 1, 0)
    assert main(["forget", url, claim.name.hex(), *REASON, "--json"]) == 0
    was = "running" if state == "lapsed" else state
    told = {"operation": claim.name.hex(), "forgotten": was, "by": "ann@desk", "reason": "ticket 7"}
    assert json.loads(printed()) == told
    assert store.get(claim.name) is None
    [note] = store.notes(claim.name)
    assert (note.by, note.action, note.reason) == ("ann@desk", "forgotten", "ticket 7")
    add(store, METHODS[0], claim.name)


def test_what_runs_is_not_forgotten(store: SQLiteStore, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An operation whose lease holds is left as it is: its handler runs. That is told before it asks (6.4)."""
    claim = add(store)
    assert main(["forget", url, claim.name.hex(), *REASON]) == 1
    name = claim.name.hex()
    error = f"grpc-idempotency: operation {name} is running and its lease holds: it is at work\n"
    assert capsys.readouterr().err == error
    assert store.get(claim.name) is not None
    assert store.notes(claim.name) == []


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_forgotten_key_runs_again(serve: Servers) -> None:
    """A completed key that was forgotten by what its client sent runs again, on a server that has not kept it (6.4)."""
    ran = 0

    async def do(_request: StringValue, _context: Any) -> StringValue:
        nonlocal ran
        ran += 1
        return text(str(ran))

    key = new_key()
    one = await serve({"Do": do})
    assert (await one.call("Do", key=key)).text == "1"
    method = (await one.the_record()).method
    await one.stop()
    assert main(["forget", f"sqlite:///{serve.path}", "--method", method, "--key", key, *REASON]) == 0
    another = await serve({"Do": do})
    assert (await another.call("Do", key=key)).text == "2"
