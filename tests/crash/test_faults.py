"""The crash lab's checker finds every fault that it is there to find."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # guards against a hang only: all faults share the wait

ROOT = Path(__file__).parents[2]
FAULTS = (
    "another's reply",
    "cancelled def handler",
    "cancelled step",
    "commit over a record",
    "commit too late",
    "completion before commit",
    "double capture",
    "dropped fence",
    "fingerprints not compared",
    "lease ignored",
    "lost completion",
    "lost trailers",
    "lost undo",
    "opaque run again",
    "refused commit answered",
    "released after OK",
    "reused fence",
    "skipped claim",
    "step not stored",
    "steps released",
    "swallowed rollback",
)


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
    """A fault that was put into the servers is found. When it takes effect is chance: so in one of some small runs."""
    assert found[fault].result()


def is_found(fault: str, folder: Path) -> bool:
    """Whether it is, in a small run."""
    for seed in range(6):
        run = folder / str(seed)
        run.mkdir()
        small = ("--kills=4", "--clients=24", "--patience=6", f"--seed={seed}", f"--folder={run}")
        done = crash(*small, f"--fault={fault}")
        if done.returncode == 1 and " findings" in done.stdout.splitlines()[-1]:
            return True
    return False


def test_all_faults_are_tried() -> None:
    """The lab knows no further fault."""
    assert crash("--faults").stdout.splitlines() == list(FAULTS)


def crash(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "crash", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
