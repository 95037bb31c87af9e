"""The rulebook has no branch that no test takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from grpc_idempotency._protocol import rules as protocol

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def test_every_branch_of_the_rulebook_is_driven_by_hand(tmp_path: Path) -> None:
    """100 % of the branches of ``rules.py`` by ``test_rules_of_*.py`` alone (``assert_never`` lines excluded)."""
    # A process of its own: whatever this run is called with, and whether it is measured itself, is nothing to it.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_", "COVERAGE_"))
    }
    environment["COVERAGE_FILE"] = str(tmp_path / "coverage")
    report = tmp_path / "report.json"
    coverage = [sys.executable, "-m", "coverage"]
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "--import-mode=importlib"]
    subprocess.run(
        [*coverage, "run", "--branch", *pytest, *map(str, HERE.glob("test_rules_of_*.py"))],
        cwd=ROOT,
        env=environment,
        check=True,
        timeout=250,
        stdout=subprocess.DEVNULL,
    )
    subprocess.run([*coverage, "json", "-q", "-o", str(report)], cwd=ROOT, env=environment, check=True, timeout=100)
    files = json.loads(report.read_text())["files"]
    measured = next(file for name, file in files.items() if Path(ROOT, name) == Path(protocol.__file__))
    assert measured["missing_lines"] == []
    assert measured["missing_branches"] == []
    assert measured["summary"]["num_branches"] > 50  # it was the branches that were measured
