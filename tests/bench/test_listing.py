"""The measurement of what operators ask runs; what it finds is not asserted here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.listing import QUESTIONS

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_it_measures_each_question(tmp_path: Path, store: str) -> None:
    """On a store with so many operations, each question gets a figure and a target."""
    file = tmp_path / "listing.json"
    command = [
        sys.executable,
        "-m",
        "bench.listing",
        "--store",
        store,
        "--keys",
        "500",
        "--times",
        "2",
        "--json",
        str(file),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert [one["what"] for one in found["figures"]] == list(QUESTIONS)
    assert all(one["value"] > 0 for one in found["figures"])
    assert "the newest 50 of a method" in done.stdout
