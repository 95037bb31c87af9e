"""The table of the matrix, printed where the results come together: a run may be spread over several processes."""

import collections
from typing import Any

import pytest

from ..harness.handlers import ALL_KINDS
from .echo import SHAPES
from .rig import STORES

CELL = "cell"
"""The property of a report that tells the clause, the kinds of handler and call, and why cells are left out."""

_HEADS = {"async": "async def on aio", "thread": "def on aio", "sync": "def on grpc.server"}
_LABEL = 74
_ARROWS = {"unary": "1→1", "server": "1→n", "client": "n→1", "bidi": "n→n"}


class Row:
    """One clause."""

    def __init__(self, reasons: dict[str, str]) -> None:
        self.reasons = reasons
        self.cells: dict[tuple[str, str], dict[str, bool]] = collections.defaultdict(dict)
        """By kind of handler and kind of call: the tests, and whether each has passed."""


rows: dict[str, Row] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Notes what became of a cell."""
    place: Any = dict(report.user_properties).get(CELL)
    if place is None:
        return
    clause, kind, shape, reasons = place
    tests = rows.setdefault(clause, Row(reasons)).cells[kind, shape]
    tests[report.nodeid] = tests.get(report.nodeid, True) and report.passed


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the table: passed cells of cells, over the stores, by clause, kind of handler and kind of call."""
    if not rows:
        return
    write = terminalreporter.write_line
    terminalreporter.section("the contract: passed cells / cells, of the stores " + " and ".join(STORES))
    write((" " * _LABEL + "".join(f"{_HEADS[kind]:<20}" for kind in ALL_KINDS)).rstrip())
    write((" " * _LABEL + "".join(f"{_ARROWS[shape]:<5}" for _ in ALL_KINDS for shape in SHAPES)).rstrip())
    notes: dict[str, int] = {}
    for clause, row in sorted(rows.items()):
        signs = "".join(f"{_sign(row, kind, shape, notes):<5}" for kind in ALL_KINDS for shape in SHAPES)
        label = clause if len(clause) < _LABEL else clause[: _LABEL - 2] + "…"
        write(f"{label:<{_LABEL}}{signs.rstrip()}")
    for why, number in notes.items():
        write(f"  -{number}: {why}")
    cells = [passed for row in rows.values() for tests in row.cells.values() for passed in tests.values()]
    write(f"{sum(cells)} of {len(cells)} cells passed, {len(rows)} clauses")


def _sign(row: Row, kind: str, shape: str, notes: dict[str, int]) -> str:
    if (kind, shape) in row.cells:
        tests = row.cells[kind, shape].values()
        return f"{sum(tests)}/{len(tests)}"
    why = row.reasons.get(kind) or row.reasons.get(shape)
    return "?" if why is None else f"-{notes.setdefault(why, len(notes) + 1)}"
