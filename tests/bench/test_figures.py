"""The figures that the page of performance tells are those of the files in docs/figures."""

import json
from pathlib import Path

import pytest

from bench import report, scale
from bench.growth import Row

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "explanation" / "performance.md").read_text()


def test_the_tables_of_the_page_are_the_figures() -> None:
    """Both tables, to the letter, and the conditions that they came about under."""
    figures, told = report.read(DOCS / "figures" / "bench.json")
    ratios, details = report.tables(figures)
    assert ratios in PAGE
    assert details in PAGE
    assert report.sentence(told) in " ".join(PAGE.split())
    assert [fault for figure in figures for fault in figure.faults] == []


@pytest.mark.parametrize("name", ["tuned-normal", "tuned-uvloop", "tuned-gc"])
def test_the_tables_of_tunings_are_the_figures(name: str) -> None:
    """What each tuning changes, to the letter."""
    figures, _ = report.read(DOCS / "figures" / f"{name}.json")
    assert report.tables(figures)[0] in PAGE
    assert [fault for figure in figures for fault in figure.faults] == []


def test_the_table_of_growth_is_the_figures() -> None:
    """What grows, to the letter."""
    written = json.loads((DOCS / "figures" / "scale.json").read_text())
    rows = [Row(**{name: value for name, value in row.items() if name != "met"}) for row in written["figures"]]
    assert scale.table(rows) in PAGE
    assert written["faults"] == []
