"""Probes that stop the server, or need a second one: they find servers that remember in memory."""

import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import COUNT, PAY, Serve, run_check, serving

pytestmark = pytest.mark.slow


@dataclass(frozen=True, kw_only=True)
class Mortal:
    """A server that a command can end and start again."""

    address: str
    arguments: tuple[str, ...]

    def again(self, name: str) -> str:
        """Returns the command that ends it by this signal, and starts it again."""
        port = self.address.rpartition(":")[2]
        return shlex.join([sys.executable, "-m", "tests.check.payments.again", name, port, *self.arguments])


@pytest.fixture
def mortal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mortal]:
    pid = tmp_path / "pid"
    arguments: tuple[str, ...] = (request.param, "--ledger", str(tmp_path / "ledger"), "--pid", str(pid))
    if request.param == "aio":
        arguments += ("--store", str(tmp_path / "store.db"))
    try:
        with serving(*arguments) as address:
            yield Mortal(address=address, arguments=arguments)
    finally:
        with suppress(ProcessLookupError):
            os.kill(int(pid.read_text()), signal.SIGKILL)


@pytest.mark.parametrize(("mortal", "verdict"), [("aio", "passed"), ("guard", "failed")], indirect=["mortal"])
def test_a_restart_shows_who_remembers_in_memory(mortal: Mortal, verdict: str) -> None:
    """A server whose keys are on the disk passes; one whose keys are in memory repeats the effect."""
    ended = run_check(mortal.address, *PAY, *COUNT, "--restart", mortal.again("SIGTERM"), "--only", "restart", "--json")
    assert ended.verdicts == {"restart": verdict}, ended.out
    assert ended.code == (0 if verdict == "passed" else 1)


@pytest.mark.parametrize(("mortal", "verdict"), [("aio", "passed"), ("guard", "failed")], indirect=["mortal"])
def test_a_kill_shows_who_remembers_in_memory(mortal: Mortal, verdict: str) -> None:
    """Killed in the call, a server with opaque handlers holds it and says so; one with keys in memory runs it again."""
    ended = run_check(mortal.address, *PAY, *COUNT, "--kill", mortal.again("SIGKILL"), "--only", "kill", "--json")
    assert ended.verdicts == {"kill": verdict}, ended.out
    # On a busy machine a call may have ended before its server was killed: then its reply alone was lost.
    assert verdict == "failed" or re.search("held|each took effect once", ended.happened("kill")), ended.out


def test_a_command_that_fails_leaves_it_unclear(serve: Serve) -> None:
    """If the server can't be restarted, the probe can't tell, and quotes what the command said."""
    ended = run_check(
        serve("guard"), *PAY, *COUNT, "--restart", "echo no such unit >&2; exit 5", "--only", "restart", "--json"
    )
    assert ended.verdicts == {"restart": "unclear"}
    assert "ended with 5" in ended.happened("restart")
    assert "no such unit" in ended.happened("restart")
    assert ended.code == 3


@pytest.mark.parametrize(("kind", "verdict"), [("aio", "passed"), ("guard", "failed")])
def test_a_replica_shows_who_remembers_alone(kind: str, verdict: str, tmp_path: Path) -> None:
    """Two servers on one store are one service; two that remember each for itself are not."""
    arguments = ("--ledger", str(tmp_path / "ledger"), *(("--store", str(tmp_path / "db")) if kind == "aio" else ()))
    with serving(kind, *arguments) as one, serving(kind, *arguments) as other:
        ended = run_check(one, *PAY, *COUNT, "--replica", other, "--only", "replica", "--json")
    assert ended.verdicts == {"replica": verdict}, ended.out


@pytest.mark.parametrize(("kind", "verdict"), [("guard", "passed"), ("ttl-0", "failed")])
def test_a_late_retry(kind: str, verdict: str, serve: Serve) -> None:
    """An outcome that is not kept for as long as promised is found."""
    ended = run_check(serve(kind), *PAY, *COUNT, "--ttl", "0.5", "--only", "ttl", "--json")
    assert ended.verdicts == {"ttl": verdict}, ended.out
