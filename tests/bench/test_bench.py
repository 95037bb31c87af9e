"""The benchmark runs; how fast is not asserted here."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import report
from bench.cases import StoreName, cases_on
from bench.measure import SIDES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CALLERS = (1, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run writes."""
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def printed(folder: Path) -> str:
    """What one run with the shortest settings printed."""
    short = ("--quick", "--pairs", "1", "--seconds", "0.2", "--keys", "100", "--callers", *map(str, CALLERS))
    files = ("--json", "figures.json", "--markdown", "table.md", "--plot", "plot.svg")
    command = [sys.executable, "-m", "bench", *short]
    command += [str(folder / part) if part.count(".") and part[0] != "-" else part for part in files]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def figures(folder: Path, printed: str) -> list[dict[str, Any]]:
    """The figures of that run."""
    found: list[dict[str, Any]] = json.loads((folder / "figures.json").read_text())["figures"]
    return found


def test_every_figure_is_there(figures: list[dict[str, Any]]) -> None:
    """One run measures every case with each number of callers, on both sides."""
    expected = [(case.name, callers) for case in cases_on("sqlite") for callers in CALLERS]
    assert [(figure["case"], figure["callers"]) for figure in figures] == expected
    for figure in figures:
        assert len(figure["ratios"]) == 1
        for side in SIDES:
            assert all(value > 0 for value in figure[side].values()), figure


def test_every_call_succeeded(figures: list[dict[str, Any]]) -> None:
    """Calls succeeded, their replies were marked as they should be, and effects took place as often as due."""
    assert [fault for figure in figures for fault in figure["faults"]] == []


def test_the_table_says_whether_targets_were_met(printed: str, figures: list[dict[str, Any]]) -> None:
    """A person gets a table with each ratio, its target, and whether that was met."""
    for figure in figures:
        assert f"{figure['ratio']:.2f}" in printed
        if figure["target"] is not None:
            assert f"≥ {figure['target']:.2f}" in printed
            assert figure["met"] is (round(figure["ratio"], 2) >= figure["target"])
    met = [figure["met"] for figure in figures if figure["target"] is not None]
    assert f"{sum(met)} of {len(met)} targets met." in printed
    assert "too noisy for a verdict" in " ".join(printed.split())


def test_figures_can_be_shown_again(folder: Path, figures: list[dict[str, Any]]) -> None:
    """The JSON file has all that the tables and the plot need."""
    again = report.read(folder / "figures.json")
    assert [figure.as_json() for figure in again.figures] == figures
    assert "\n".join(report.tables(again)) == (folder / "table.md").read_text()
    assert "synchronous=FULL" in report.sentence(again.told)


def test_the_plot_is_drawn(folder: Path, printed: str) -> None:
    """As SVG and as PNG."""
    assert (folder / "plot.svg").read_text().startswith("<?xml")
    assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_tuning_is_compared_with_none(tmp_path: Path) -> None:
    """The reference is then the library itself, whose replies are looked at as closely, and there are no targets."""
    file = tmp_path / "figures.json"
    short = ("--quick", "--pairs", "1", "--seconds", "0.2", "--callers", "4", "--json", str(file))
    tuned = ("--tuned-alone", "--uvloop", "--gc-threshold", "50000", "--synchronous", "NORMAL")
    command = [sys.executable, "-m", "bench", *short, *tuned, "--only", "first-aio", "file-aio", "order-aio"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    written = json.loads(file.read_text())
    assert [(one["versus"], one["target"], one["faults"]) for one in written["figures"]] == [("ours", None, [])] * 3
    assert "targets met" not in run.stdout
    assert "synchronous=NORMAL, uvloop, gc threshold 50000" in " ".join(run.stdout.split())


@pytest.mark.parametrize(
    ("store", "more", "told"),
    [
        ("postgresql", (), "fsync=on, synchronous_commit=on"),
        ("redis", ("--appendfsync", "always"), "appendonly=yes, appendfsync=always"),
        ("memory", (), "MemoryStore"),
    ],
)
def test_every_figure_of_an_engine_is_there(store: StoreName, more: tuple[str, ...], told: str, tmp_path: Path) -> None:
    """A real server of the engine is measured: its processor time, what it keeps, and its own targets."""
    json_file, markdown = tmp_path / "figures.json", tmp_path / "table.md"
    short = ("--quick", "--pairs", "1", "--seconds", "0.2", "--keys", "100", "--callers", "4")
    files = ("--json", str(json_file), "--markdown", str(markdown))
    command = [sys.executable, "-m", "bench", "--store", store, *more, *short, *files]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    results = report.read(json_file)
    assert results.faults == []
    assert [figure.case for figure in results.figures] == [case.name for case in cases_on(store)]
    assert told in report.sentence(results.told)
    assert "".join(f"{line}\n" for line in markdown.read_text().splitlines() if line) == "".join(report.tables(results))
    if store == "memory":
        assert results.storage is None
        assert results.rows == []
        return
    assert [row.name for row in results.rows] == ["elsewhere-aio", "elsewhere-sync"]
    assert all(row.value for row in results.rows)
    assert results.storage is not None
    assert results.storage.bytes_per_key > 200
    assert results.storage.logged is not None
    assert results.storage.logged > 200
    if sys.platform == "linux":
        [first] = [figure for figure in results.figures if figure.case == "first-aio"]
        assert first.measured["engine_cpu_per_call"] > 0


def test_the_targets_of_an_engine_are_told(tmp_path: Path) -> None:
    """Ratios and other figures stand in one table, each with its target and whether it was met."""
    json_file, markdown = tmp_path / "figures.json", tmp_path / "tables.md"
    cases = ("pairs-aio", "pairs-sync", "against-sqlite-sync", "order-aio")
    short = ("--quick", "--pairs", "1", "--seconds", "0.2", "--callers", "64", "--json", str(json_file))
    command = [sys.executable, "-m", "bench", "--store", "postgresql", *short, "--only", *cases, "elsewhere-aio"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    results = report.read(json_file)
    assert results.faults == []
    assert {figure.case: figure.target for figure in results.figures} == {
        "pairs-aio": 5,
        "pairs-sync": 5,
        "against-sqlite-sync": 0.85,
        "order-aio": 0.75,
    }
    assert {row.name: row.target for row in results.rows} == {
        "pairs-aio-engine": 80,
        "pairs-sync-engine": 80,
        "elsewhere-aio": 3,
    }
    every = [*(figure.met for figure in results.figures), *(row.met for row in results.rows)]
    met = [one for one in every if one is not None]
    assert f"{sum(met)} of {len(met)} targets met." in run.stdout
    show = [sys.executable, "-m", "bench", "--show", str(json_file), str(json_file), "--markdown", str(markdown)]
    assert subprocess.run(show, cwd=ROOT, capture_output=True, timeout=60, check=False).returncode == 0
    *_, targets = report.comparison([results, results])
    assert targets in markdown.read_text()
    assert len(targets.splitlines()) == 2 + 2 * (len(results.figures) + len(results.rows))


def test_runs_can_be_compared(folder: Path, figures: list[dict[str, Any]]) -> None:
    """A table has the interceptor's figures of each run, side by side, and another what stored keys take in each."""
    file, markdown = str(folder / "figures.json"), folder / "compared.md"
    command = [sys.executable, "-m", "bench", "--show", file, file, "--markdown", str(markdown)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    runs = [report.read(Path(file))] * 2
    assert markdown.read_text() == "\n".join(report.comparison(runs))
    lines = markdown.read_text().splitlines()
    assert sum(line.startswith("| first call |") for line in lines) == 2 * 2
    assert sum(line.startswith("| SQLite") for line in lines) == 2
    [first] = [one for one in figures if (one["case"], one["callers"]) == ("first-aio", CALLERS[-1])]
    assert f"{first['measured']['throughput']:,.0f}" in markdown.read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--store", "redis", "--only", "order-aio"), "order-aio is not measured on redis"),
        (("--store", "memory", "--synchronous", "FULL"), "--synchronous is a setting of SQLite"),
        (("--appendfsync", "always"), "--appendfsync is a setting of Valkey"),
        (("--show", "a.json", "b.json", "--json", "c.json"), "a comparison is no run"),
    ],
)
def test_arguments_that_do_not_fit_the_store_are_refused(arguments: tuple[str, ...], told: str) -> None:
    """Nothing is measured, rather than something else than was asked for."""
    command = [sys.executable, "-m", "bench", *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2
    assert told in run.stderr
