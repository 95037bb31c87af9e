"""The benchmark runs; how fast is not asserted here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CASES = ["unkeyed", "first", "replay", "order"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, object]]]:
    """One run with the shortest settings: what it printed, and its figures."""
    file = tmp_path_factory.mktemp("bench") / "figures.json"
    command = [sys.executable, "-m", "bench", "--quick", "--pairs", "1", "--seconds", "0.2", "--json", str(file)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout, json.loads(file.read_text())


def test_every_figure_is_there(finished: tuple[str, list[dict[str, object]]]) -> None:
    """One run measures all four cases on both sides."""
    _, figures = finished
    assert [figure["case"] for figure in figures] == CASES
    for figure in figures:
        assert figure["ratio"]
        for side in ("bare", "guarded"):
            values = figure[side]
            assert isinstance(values, dict)
            assert all(value > 0 for value in values.values()), values


def test_every_call_succeeded(finished: tuple[str, list[dict[str, object]]]) -> None:
    """Calls succeeded, their replies were marked as they should be, and effects took place as often as due."""
    _, figures = finished
    assert [figure["faults"] for figure in figures] == [[]] * len(CASES)


def test_the_table_says_whether_aims_were_met(finished: tuple[str, list[dict[str, object]]]) -> None:
    """A person gets a table with each ratio, its aim, and whether that was met."""
    printed, figures = finished
    for figure in figures:
        assert f"{figure['ratio']:.2f}" in printed
        assert f"≥ {figure['aim']:.2f}" in printed
    assert printed.count("met") + printed.count("missed") == len(CASES)
