"""An operator lists, counts and exports operations (6.4)."""

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from grpc_idempotency import Code, Outcome, SQLiteStore
from grpc_idempotency.__main__ import main
from grpc_idempotency.records import Claim, Step

from .operations import FIELDS, METHODS, REASON, Printed, add, held, lapsed


def listed(printed: Printed, *arguments: str) -> list[dict[str, Any]]:
    """What a listing prints as JSON."""
    assert main([*arguments, "--json"]) == 0
    return [json.loads(line) for line in printed().splitlines()]


def names(printed: Printed, *arguments: str) -> list[str]:
    return [one["operation"] for one in listed(printed, *arguments)]


def hexes(*claims: Claim) -> list[str]:
    return [claim.name.hex() for claim in claims]


# ls


def test_ls(store: SQLiteStore, url: str, printed: Printed) -> None:
    """A header, and a line for each operation: name, state, age, method, and the most important fact (6.4)."""
    running, gone, kept, done = add(store), lapsed(store), held(store), add(store)
    assert store.complete(done.name, done.fence, Outcome(status=Code.NOT_FOUND), timedelta(hours=1))
    assert main(["ls", url]) == 0
    header, *lines = printed().splitlines()
    assert header.split() == ["OPERATION", "STATE", "AGE", "METHOD", "WHY"]
    by_name = {line.split()[0]: line.split(maxsplit=4)[1:] for line in lines}
    assert sorted(by_name) == sorted(hexes(running, gone, kept, done))
    assert {age for _, age, *_ in by_name.values()} <= {f"{seconds}s" for seconds in range(60)}
    assert by_name[kept.name.hex()][2:] == [METHODS[0], "its server stopped"]
    assert by_name[gone.name.hex()][2:] == [METHODS[0], "its server is gone"]
    assert by_name[done.name.hex()][2:] == [METHODS[0], "NOT_FOUND"]
    assert by_name[running.name.hex()][2:] == [METHODS[0]]


def test_ls_of_some(store: SQLiteStore, url: str, printed: Printed) -> None:
    """``--state``, ``--method``, also a glob, and ``--stuck`` choose (6.4)."""
    claims = [add(store, method) for method in METHODS]
    assert store.hold(claims[0].name, claims[0].fence, "x")
    claims.append(lapsed(store, method=METHODS[2]))
    chosen = {
        ("--state", "held"): {0},
        ("--state", "running"): {1, 2, 3},
        ("--method", METHODS[1]): {1},
        ("--method", "/a.A/*"): {0, 1},
        ("--method", "/a.A/*", "--state", "running"): {1},
        ("--method", "/a.A/Three"): set(),
        ("--stuck",): {0, 3},
        ("--stuck", "--method", METHODS[2]): {3},
        ("--newer-than", "1h"): {0, 1, 2, 3},
        ("--older-than", "1h"): set(),
    }
    for options, numbers in chosen.items():
        found = names(printed, "ls", url, *options)
        assert sorted(found) == sorted(claims[number].name.hex() for number in numbers), options


def test_ls_by_age(store: SQLiteStore, url: str, printed: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--older-than`` and ``--newer-than`` choose by the first claim (6.4)."""
    claim = add(store)
    monkeypatch.setattr(
        "grpc_idempotency._command.filters.now", lambda: datetime.now(timezone.utc) + timedelta(hours=2)
    )
    for options, there in {("--older-than", "1h"): 1, ("--older-than", "3h"): 0, ("--newer-than", "3h"): 1}.items():
        assert names(printed, "ls", url, *options) == hexes(claim) * there
    assert names(printed, "ls", url, "--older-than", "60m", "--newer-than", "1d") == hexes(claim)
    assert names(printed, "ls", url, "--older-than", "3600", "--newer-than", "5400s") == []
    for command in ("ls", "export"):
        assert main([command, url, "--older-than", "2h", "--newer-than", "120m"]) == 2


def test_ls_of_many(store: SQLiteStore, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The newest 50 are listed, or as many as are wanted; it is said that there are more (6.4)."""
    claims = hexes(*(add(store) for _ in range(120)))
    for options, number in (((), 50), (("--limit", "7"), 7), (("--limit", "120"), 120)):
        assert main(["ls", url, "--json", *options]) == 0
        out, error = capsys.readouterr()
        found = [json.loads(line)["operation"] for line in out.splitlines()]
        assert len(found) == number
        newest = store.list(newest_first=True, limit=number)
        assert found == [record.name.hex() for record in newest]
        assert ("there are more" in error) is (number < len(claims))


def test_the_fields_of_json(store: SQLiteStore, url: str, printed: Printed) -> None:
    """Every field is there in every state, in one order (6.4)."""
    trace = bytes(range(25))
    done, failing = add(store, trace=trace), add(store)
    assert store.complete(done.name, done.fence, Outcome(status=Code.OK, message=b"m", details="d"), timedelta(1))
    assert store.undo(failing.name, failing.fence, Outcome(status=Code.NOT_FOUND, details="no such user"))
    held(store)
    found = {one["state"]: one for one in listed(printed, "ls", url)}
    assert set(found) == {"completed", "undoing", "held"}
    assert all(list(one) == FIELDS for one in found.values())
    completed = found["completed"]
    assert (completed["status"], completed["details"], completed["message_bytes"]) == ("OK", "d", 1)
    assert completed["traceparent"] == f"00-{trace[:16].hex()}-{trace[16:24].hex()}-18"
    assert (found["undoing"]["failure"], found["undoing"]["failure_details"]) == ("NOT_FOUND", "no such user")
    assert datetime.fromisoformat(completed["created"]).tzinfo == timezone.utc


def test_foreign_text_is_escaped(store: SQLiteStore, url: str, printed: Printed) -> None:
    """Text that others gave can't control the terminal, nor add lines."""
    claim = add(store, method="/a.A/\x1b[2JOne")
    assert store.hold(claim.name, claim.fence, "a\nb\u202ec")
    for command in (["ls"], ["show", claim.name.hex()], ["watch", "--once"], ["stats"]):
        assert main([command[0], url, *command[1:]]) == 0
        told = printed()
        assert "\x1b" not in told
        assert "\u202e" not in told
        assert "/a.A/\\x1b[2JOne" in told
    assert main(["ls", url]) == 0
    assert "a\\nb\\u202ec" in printed()


def test_a_terminal_of_another_language(store: SQLiteStore, url: str) -> None:
    """Text that the output's encoding does not have is escaped."""
    claim = add(store)
    assert store.hold(claim.name, claim.fence, "étrange")
    done = subprocess.run(
        [sys.executable, "-m", "grpc_idempotency", "ls", url],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\xe9trange" in done.stdout


@pytest.mark.parametrize("command", ["ls --limit 1000", "export"])
def test_a_reader_that_has_seen_enough(store: SQLiteStore, url: str, command: str) -> None:
    """``ls | head`` ends without a traceback (6.4)."""
    for _ in range(300):
        add(store)
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m grpc_idempotency {command} '{url}' | head -1"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


# stats


def test_stats(store: SQLiteStore, url: str, printed: Printed) -> None:
    """A line for each method with the number of operations in each state, and one for all (6.4)."""
    held(store)
    add(store, METHODS[1])
    for _ in range(2):
        done = add(store, METHODS[1])
        assert store.complete(done.name, done.fence, Outcome(status=Code.OK), timedelta(hours=1))
    assert main(["stats", url]) == 0
    assert [line.split() for line in printed().splitlines()] == [
        ["METHOD", "HELD", "RUNNING", "WAITING", "UNDOING", "COMPLETED"],
        [METHODS[0], "1", "0", "0", "0", "0"],
        [METHODS[1], "0", "1", "0", "0", "2"],
        ["total", "1", "1", "0", "0", "2"],
    ]
    without = {"held": 1, "running": 0, "waiting": 0, "undoing": 0}
    assert listed(printed, "stats", url, "--open") == [
        {"method": METHODS[0], **without},
        {"method": METHODS[1], **without, "held": 0, "running": 1},
    ]


# export


def test_export(store: SQLiteStore, url: str, printed: Printed) -> None:
    """All operations as JSON lines, the oldest first; ``--full`` adds steps and notes, ``--body`` bodies (6.4)."""
    claims = [add(store) for _ in range(230)]
    assert main(["export", url]) == 0
    found = [json.loads(line) for line in printed().splitlines()]
    assert sorted(one["operation"] for one in found) == sorted(hexes(*claims))
    assert [one["created"] for one in found] == sorted(one["created"] for one in found)
    assert all(list(one) == FIELDS for one in found)

    step = Step(name="charge", position=0, result=b"j[1]", undoable=True)
    assert store.record_step(claims[0].name, claims[0].fence, step)
    assert store.hold(claims[0].name, claims[0].fence, "x")
    assert main(["resolve", url, claims[0].name.hex(), "--completed", "--details", "d", *REASON]) == 0
    printed()
    assert main(["export", url, "--state", "completed", "--full", "--body"]) == 0
    one = json.loads(printed())
    assert list(one) == [*FIELDS, "message", "trailers", "failure_trailers", "steps", "notes"]
    assert [(note["by"], note["action"], note["reason"]) for note in one["notes"]] == [
        ("ann@desk", "completed", "ticket 7")
    ]
    assert [(step["step"], step["result"]) for step in one["steps"]] == [("charge", [1])]


def test_export_to_a_full_disk(store: SQLiteStore, url: str) -> None:
    """An output that can't be written is told in one line, with exit code 1."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    add(store)
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "grpc_idempotency", "export", url], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("grpc-idempotency: ")


# sweep


def test_sweep(store: SQLiteStore, url: str, printed: Printed) -> None:
    """All expired records are deleted, in one command (6.3)."""
    for _ in range(600):
        claim = add(store)
        assert store.complete(claim.name, claim.fence, Outcome(status=Code.OK), timedelta(microseconds=1))
    add(store)
    [told] = listed(printed, "sweep", url)
    assert told["deleted"] == 600
    assert main(["sweep", url]) == 0
    assert printed().startswith("0 expired records deleted")
