"""The figures that the page of performance tells are those of the files in docs/figures."""

import json
from pathlib import Path

import pytest

from bench import report, scale
from bench.rows import Row

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "explanation" / "performance.md").read_text()
SCALE = (DOCS / "explanation" / "scale.md").read_text()
STORES = ("sqlite", "postgresql", "redis")


def test_the_tables_of_the_page_are_the_figures() -> None:
    """Both tables, to the letter, and the conditions that they came about under."""
    results = report.read(DOCS / "figures" / "bench.json")
    ratios, details, *_ = report.tables(results)
    assert ratios in PAGE
    assert details in PAGE
    assert report.sentence(results.told) in " ".join(PAGE.split())
    assert results.faults == []


@pytest.mark.parametrize("name", ["tuned-normal", "tuned-uvloop", "tuned-gc"])
def test_the_tables_of_tunings_are_the_figures(name: str) -> None:
    """What each tuning changes, to the letter."""
    results = report.read(DOCS / "figures" / f"{name}.json")
    assert report.tables(results)[0] in PAGE
    assert results.faults == []


def test_the_table_of_growth_is_the_figures() -> None:
    """What grows, to the letter."""
    written = json.loads((DOCS / "figures" / "scale.json").read_text())
    rows = [Row.of_json(row) for row in written["figures"]]
    assert scale.table(rows) in PAGE
    assert written["faults"] == []


def test_the_table_of_growth_on_postgresql_is_the_figures() -> None:
    """What grows there, to the letter, and the conditions."""
    written = json.loads((DOCS / "figures" / "scale-postgresql.json").read_text())
    assert scale.table([Row.of_json(row) for row in written["figures"]]) in SCALE
    assert scale.sentence(written["conditions"]) in " ".join(SCALE.split())
    assert written["faults"] == []


def test_the_tables_of_stores_are_the_figures() -> None:
    """All tables that compare the stores, to the letter, and the conditions of each run."""
    runs = [report.read(DOCS / "figures" / f"bench-{store}.json") for store in STORES]
    assert [run.told["store"] for run in runs] == list(STORES)
    for table in report.comparison(runs):
        assert table in SCALE
    for run in runs:
        assert report.sentence(run.told) in " ".join(SCALE.split())
        assert run.faults == []
