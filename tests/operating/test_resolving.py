"""An operator resolves held operations, by the command and by functions (6.4)."""

import io
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Code, InvalidOutcome, NotHeld, Outcome, Policy, SQLiteStore, State
from grpc_idempotency.__main__ import main
from grpc_idempotency.operating import completed, framed, never_happened, operation

from ..harness.handlers import Blocking, server_stream
from ..harness.processes import Process
from ..harness.replies import new_key, refused, text
from ..harness.servers import Servers
from ..harness.waiting import Gate, ms
from .operations import add, complaints, held

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
