"""An operator lists and sees operations (6.4)."""

import json
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest

from grpc_idempotency import Code, Outcome, SQLiteStore
from grpc_idempotency.__main__ import main
from grpc_idempotency.records import Step

from .operations import METHODS, Printed, add, complaints, held

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
        "failed_undos: 1",
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
