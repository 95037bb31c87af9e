"""An operator follows what is open, through a pipe (6.4). At a terminal: test_terminals."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from grpc_idempotency import Code, Outcome, SQLiteStore
from grpc_idempotency.__main__ import main

from .operations import METHODS, Printed, add, held, lapsed


@contextmanager
def watching(url: str, *options: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-W", "error", "-m", "grpc_idempotency", "watch", url, "--every", "0.05", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: "subprocess.Popen[str]") -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def test_changes(store: SQLiteStore, url: str) -> None:
    """A line for each change: open at first, newly open, changed, completed or released; Ctrl-C ends it well."""
    claim = add(store)
    with watching(url, "--json") as process:
        assert (line(process)["operation"], claim.owner) == (claim.name.hex(), "host:7")
        assert store.hold(claim.name, claim.fence, "x")
        told = line(process)
        assert (told["state"], told["reason"], next(iter(told))) == ("held", "x", "at")
        assert store.resolve(claim.name, claim.fence, Outcome(status=Code.NOT_FOUND), timedelta(1))
        told = line(process)
        assert (told["state"], told["status"]) == ("completed", "NOT_FOUND")
        another = add(store, METHODS[1])
        assert line(process)["operation"] == another.name.hex()
        assert store.release(another.name, another.fence)
        told = line(process)
        del told["at"]
        assert told == {"operation": another.name.hex(), "state": "absent", "method": METHODS[1]}
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error) == (0, "", "")


def test_lines(store: SQLiteStore, url: str) -> None:
    """Without ``--json`` a line has the time, the state, the name, the method, and the most important fact."""
    claim = held(store)
    with watching(url) as process:
        assert process.stdout is not None
        words = process.stdout.readline().split(maxsplit=5)
        assert words[2:] == ["held", claim.name.hex(), METHODS[0], "its server stopped\n"]
        assert store.resolve(claim.name, claim.fence, None, timedelta(1))
        assert process.stdout.readline().split()[2:] == ["absent", claim.name.hex(), METHODS[0]]


def test_a_store_that_fails(store: SQLiteStore, url: str, path: Path) -> None:
    """While the store can't be read, each try says so in a line, and the command goes on (5.5)."""
    add(store)
    with watching(url, "--json") as process:
        first = line(process)
        moved = path.rename(path.with_name("elsewhere.db"))
        assert process.stderr is not None
        while not (told := process.stderr.readline()).startswith("grpc-idempotency: "):
            assert told
        moved.rename(path)
        claim = add(store)
        assert line(process)["operation"] == claim.name.hex() != first["operation"]


def test_once(store: SQLiteStore, url: str, printed: Printed) -> None:
    """``--once`` prints what is open, held ones first, and ends; ``--stuck`` and ``--method`` choose."""
    running, kept, gone = add(store), held(store), lapsed(store, method=METHODS[1])
    done = add(store)
    assert store.complete(done.name, done.fence, Outcome(status=Code.OK), timedelta(1))
    chosen = {
        (): {running, kept, gone},
        ("--stuck",): {kept, gone},
        ("--stuck", "--method", "/a.A/O*"): {kept},
        ("--method", METHODS[1]): {gone},
    }
    for options, claims in chosen.items():
        assert main(["watch", url, "--once", "--json", *options]) == 0
        names = [json.loads(told)["operation"] for told in printed().splitlines()]
        assert sorted(names) == sorted(claim.name.hex() for claim in claims)
        assert kept not in claims or names[0] == kept.name.hex()
