"""The crash lab: kills do no harm."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CLEAN = "0 duplicate effects, 0 differing replies, 0 stuck, money conserved"


def crash(folder: Path, *arguments: str) -> tuple[int, str]:
    """The exit code of a run, and what it says."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "crash", "--folder", str(folder), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=290,
    )
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def figure(name: str, said: str) -> int:
    """The figure of this name in the table."""
    found = re.search(rf"^ *{name} +(\d[\d,]*) *$", said, re.MULTILINE)
    assert found is not None, said
    return int(found[1].replace(",", ""))


def test_kills_do_no_harm(tmp_path: Path) -> None:
    """Two real servers, 40 calls in flight, 25 kills: no effect twice, no reply that differs, money conserved."""
    code, said = crash(tmp_path, "--kills=25")
    assert (code, said.splitlines()[-1]) == (0, CLEAN), said
    assert figure("kills", said) >= 25
    for misuse in ("rollbacks swallowed", "steps cut off", "def handlers cancelled"):
        assert figure(misuse, said) > 0, f"{misuse} is not tried:\n{said}"
    assert 0 < figure("claimed at a step", said) < figure("runs without a claim", said), said
    assert figure("runs without a claim", said) < figure("handler runs", said), said
    assert re.search(r"^killing: \d+ of 25 kills, \d+ s$", said, re.MULTILINE), said


@pytest.mark.parametrize("store", ["postgresql", "redis"])
def test_kills_of_servers_and_of_the_engine(tmp_path: Path, store: str) -> None:
    """Two hosts on one engine, which is killed too: what it has acknowledged is there, and nothing is there twice."""
    code, said = crash(tmp_path, "--kills=12", f"--store={store}")
    assert (code, said.splitlines()[-1]) == (0, CLEAN), said
    assert figure("the engine", said) > 0, said
    assert figure("taken over", said) > 0, said


def test_a_checkout_killed_at_any_point_ends_by_itself() -> None:
    """Killed between any two steps, on either side: all or nothing, soon after the restart, without a client."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "crash", "--walk"], cwd=ROOT, capture_output=True, text=True, timeout=290
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "all or nothing at 37 places" in done.stdout


@pytest.mark.parametrize("store", ["sqlite", "postgresql", "redis"])
def test_servers_that_share_a_store(tmp_path: Path, store: str) -> None:
    """Two servers for each service; some are killed, some come back after their leases and must change nothing."""
    code, said = crash(tmp_path, "--kills=6", "--peers=2", "--pauses=0.5", "--clients=20", f"--store={store}")
    assert (code, said.splitlines()[-1]) == (0, CLEAN), said
    if store == "sqlite":
        assert figure("commits refused", said) > 0, f"no two runs without a claim have met:\n{said}"
