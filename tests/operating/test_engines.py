"""The command works on every engine, through a pipe, and on a large store (6.4)."""

import json
import os
import subprocess
import sys
from datetime import timedelta

import pytest

from grpc_idempotency import Code, Outcome
from grpc_idempotency.__main__ import main
from grpc_idempotency.operating import name_of
from grpc_idempotency.operator_store import OperatorStore

from .many import multiply
from .operations import METHODS, REASON, Printed, add, held

pytestmark = pytest.mark.slow


def run(url: str, *words: str, code: int = 0) -> str:
    """Runs the command as a process of its own, with the store in its environment."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "grpc_idempotency", *words],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "GRPC_IDEMPOTENCY_STORE": url},
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if words[0] not in ("resolve", "forget"):
        assert done.stderr.count("\n") == (code != 0)
    return done.stdout


def test_no_store_is_made(engine: str) -> None:
    """Where there is no store, there is none afterwards: it is told in one line (6.4)."""
    for words in (["ls"], ["stats"], ["sweep"], ["show", "ab"], ["forget", "ab", *REASON]):
        run(engine, *words, code=1)


def test_an_incident(engine: str, there: OperatorStore) -> None:
    """From the list to the resolved operation, on every engine: stats, ls, show, resolve, forget, export (6.4)."""
    key, method = "order-1", METHODS[1]
    first, second = held(there), held(there, name_of(b"ann", method, key), method=method)
    done = add(there)
    assert there.complete(done.name, done.fence, Outcome(status=Code.OK, message=b"m"), timedelta(hours=1))

    [header, *_, total] = run(engine, "stats", "--open").splitlines()
    assert header.split()[1] == "HELD"
    assert total.split() == ["total", "2", "0", "0", "0"]
    listing = run(engine, "ls", "--stuck").splitlines()[1:]
    assert {line.split()[0] for line in listing} == {first.name.hex(), second.name.hex()}
    shown = run(engine, "show", "--principal", "ann", "--method", method, "--key", key)
    assert second.name.hex() in shown
    assert "its server stopped" in shown
    assert key not in shown

    run(engine, "resolve", second.name.hex()[:10], "--never-happened", code=2)
    run(engine, "resolve", second.name.hex()[:10], "--never-happened", *REASON, "--fence", first.fence.hex(), code=1)
    run(engine, "resolve", second.name.hex()[:10], "--never-happened", *REASON)
    run(engine, "resolve", first.name.hex()[:10], "--completed", "--status", "NOT_FOUND", *REASON)
    run(engine, "resolve", first.name.hex()[:10], "--never-happened", *REASON, code=1)
    assert run(engine, "ls", "--stuck") == ""
    assert "never happened, says ann@desk: ticket 7" in run(engine, "show", second.name.hex())
    assert "completed, says ann@desk: ticket 7" in run(engine, "show", first.name.hex())

    found = [json.loads(line) for line in run(engine, "export", "--full", "--method", METHODS[0]).splitlines()]
    assert {one["operation"]: len(one["notes"]) for one in found} == {first.name.hex(): 1, done.name.hex(): 0}
    run(engine, "forget", done.name.hex(), *REASON)
    assert there.get(done.name) is None
    assert run(engine, "show", done.name.hex(), "--json").count("forgotten") == 1
    assert run(engine, "watch", "--once") == ""
    assert json.loads(run(engine, "sweep", "--json"))["deleted"] == 0


@pytest.mark.timeout(300)
def test_a_million_operations(engine: str, there: OperatorStore, printed: Printed) -> None:
    """The newest, the held, those of a glob and a single one are found among 1,000,000 (6.4)."""
    method = METHODS[0]
    one = add(there, method)
    assert there.complete(one.name, one.fence, Outcome(status=Code.OK, message=b"m"), timedelta(days=1))
    multiply(engine, 1_000_000)
    stuck = held(there, name_of(b"ann", method, "order-1"))
    for words, number in {
        (): 50,
        ("--method", "/a.*/One"): 50,
        ("--stuck",): 1,
        ("--state", "held", "--method", method): 1,
    }.items():
        assert main(["ls", *words, engine, "--json"]) == 0
        found = [json.loads(line)["operation"] for line in printed().splitlines()]
        assert len(found) == number
        assert found[0] == stuck.name.hex()
        assert found[1:2] == [one.name.hex()] * (number > 1)
    for named in ([stuck.name.hex()[:12]], ["--principal", "ann", "--method", method, "--key", "order-1"]):
        assert main(["show", engine, *named, "--json"]) == 0
        assert json.loads(printed())["operation"] == stuck.name.hex()
    assert main(["stats", engine, "--json"]) == 0
    told = json.loads(printed())
    assert (told["held"], told["completed"]) == (1, 1_000_000)
