"""The crash lab's checker finds every fault that it is there to find."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # guards against a hang only: all faults share the wait

ROOT = Path(__file__).parents[2]
FAULTS = {
    "another's reply": "differing replies",
    "cancelled def handler": "run beside a handler that still runs",
    "cancelled step": "all or nothing",
    "commit over a record": "completed twice",
    "commit too late": "differing replies",
    "completion before commit": "money",
    "double capture": "money",
    "dropped fence": "differing replies",
    "fingerprints not compared": "a reused key",
    "lease ignored": "a lease ignored",
    "lost completion": "not the committed reply",
    "lost trailers": "differing replies",
    "lost undo": "all or nothing",
    "opaque run again": "opaque, and run again",
    "refused commit answered": "differing replies",
    "released after OK": "a lost outcome",
    "reused fence": "a reused fence",
    "skipped claim": "run under a fence that is not the owner's",
    "step not stored": "the step ask was run again",
    "steps released": "all or nothing",
    "swallowed rollback": "not the committed reply",
}
"""The rule that each fault violates, as the findings name it. A slow machine alone leaves calls without an answer."""


@pytest.fixture(scope="module")
def found(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[bool]]]:
    """Whether each fault that is asked for was found; a few run at a time, since they wait more than they work."""
    names = {item.name for item in request.session.items}
    asked = [fault for fault in FAULTS if f"test_the_checker_finds[{fault}]" in names]
    with ThreadPoolExecutor(2) as pool:
        yield {fault: pool.submit(is_found, fault, tmp_path_factory.mktemp("fault")) for fault in asked}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_checker_finds(fault: str, found: dict[str, Future[bool]]) -> None:
    """A fault that was put into the servers is found by the rule that it violates, in one of some small runs."""
    assert found[fault].result()


def is_found(fault: str, folder: Path) -> bool:
    """True if the checker finds in one of some small runs that the fault's rule was violated."""
    for seed in range(6):
        run = folder / str(seed)
        run.mkdir()
        small = ("--kills=4", "--clients=24", "--patience=6", f"--seed={seed}", f"--folder={run}")
        done = crash(*small, f"--fault={fault}")
        if any(line.startswith(f"{FAULTS[fault]}:") for line in done.stdout.splitlines()):
            return True
    return False


def test_all_faults_are_tried() -> None:
    """The lab knows no further fault."""
    assert crash("--faults").stdout.splitlines() == list(FAULTS)


def crash(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "crash", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
