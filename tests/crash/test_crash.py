"""The crash lab: 25 kills do no harm, and its checker finds every fault that it is there to find."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAULTS = (
    "another's reply",
    "completion before commit",
    "double capture",
    "dropped fence",
    "fingerprints not compared",
    "lease ignored",
    "lost completion",
    "lost trailers",
    "lost undo",
    "opaque run again",
    "released after OK",
    "reused fence",
    "skipped claim",
    "step not stored",
    "steps released",
)
CLEAN = "0 duplicate effects, 0 differing replies, 0 stuck, money conserved"


def crash(folder: Path, *arguments: str) -> tuple[int, str]:
    """The exit code of a run, and what it says."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "crash", "--folder", str(folder), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def test_kills_do_no_harm(tmp_path: Path) -> None:
    """Two real servers, 40 calls in flight, 25 kills: no effect twice, no reply that differs, money conserved."""
    code, said = crash(tmp_path, "--kills=25")
    assert (code, said.splitlines()[-1]) == (0, CLEAN), said
    kills = re.search(r"^ +kills  (\d+)$", said, re.MULTILINE)
    assert kills is not None
    assert int(kills[1]) >= 25


def test_a_checkout_killed_at_any_point_ends_by_itself() -> None:
    """Killed between any two steps, on either side: all or nothing, soon after the restart, without a client."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "crash", "--walk"], cwd=ROOT, capture_output=True, text=True, timeout=110
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "all or nothing at 28 places" in done.stdout


def test_servers_that_share_a_file(tmp_path: Path) -> None:
    """Two servers for each service; some are killed, some come back after their leases and must change nothing."""
    code, said = crash(tmp_path, "--kills=6", "--peers=2", "--pauses=0.5", "--clients=20")
    assert (code, said.splitlines()[-1]) == (0, CLEAN), said


@pytest.mark.parametrize("fault", FAULTS)
def test_the_checker_finds(fault: str, tmp_path: Path) -> None:
    """A fault that was put into the servers is found. When it takes effect is chance: so in one of three small runs."""
    for seed in range(3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        code, said = crash(folder, "--kills=4", "--clients=24", "--patience=6", f"--seed={seed}", f"--fault={fault}")
        if code == 1 and " findings" in said.splitlines()[-1]:
            return
    pytest.fail(f"not found: {fault}")


def test_all_faults_are_tried() -> None:
    """The lab knows no further fault."""
    done = subprocess.run(
        [sys.executable, "-m", "crash", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert all(fault in done.stdout.replace("\n", " ") for fault in FAULTS)
