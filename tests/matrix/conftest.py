"""Makes a matrix of the tests here: each is a clause of the contract, run in every cell, and told in a table."""

import collections
import inspect
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from .echo import KINDS, SHAPES
from .rig import STORES, Cell, Column, serving

Where = tuple[str, str, str]
"""Kind of handler, kind of call, store."""

_cells: dict[str, tuple[str, Where]] = {}
"""What was collected: a test's id, its clause and its place."""
_failed: set[str] = set()
_passed: set[str] = set()
_left_out: dict[str, dict[str, str]] = {}
"""By clause: the kinds of handlers and calls and the stores without it, and why."""


def pytest_configure(config: pytest.Config) -> None:
    """The one mark of clauses."""
    config.addinivalue_line("markers", "left_out(**reasons): where a clause does not apply, and why")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A clause is tested in every cell but those that it gives a reason for."""
    if "cell" not in metafunc.fixturenames:
        return
    reasons = _reasons(metafunc.definition)
    assert set(reasons) <= {*KINDS, *SHAPES, *STORES}, reasons
    columns = [(kind, store) for kind in KINDS for store in STORES if not {kind, store} & set(reasons)]
    metafunc.parametrize("column", columns, ids="-".join, indirect=True)
    metafunc.parametrize("shape", [shape for shape in SHAPES if shape not in reasons])


def _reasons(definition: Any) -> dict[str, str]:
    return {name: why for mark in definition.iter_markers("left_out") for name, why in mark.kwargs.items()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def column(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Column]:
    kind, store = request.param
    async with serving(kind, store, tmp_path_factory.mktemp("matrix")) as serves:
        yield serves


@pytest.fixture
def cell(column: Column, shape: str) -> Cell:
    column.faults.down.clear()
    return Cell(column, shape)


# The table


def pytest_collection_finish(session: pytest.Session) -> None:
    """Notes the cells that will be run."""
    for item in session.items:
        if not isinstance(item, pytest.Function) or "cell" not in item.fixturenames:
            continue
        assert item.obj.__doc__, item.nodeid
        clause = inspect.cleandoc(item.obj.__doc__).splitlines()[0]
        params: dict[str, Any] = dict(item.callspec.params)
        kind, store = params["column"]
        _cells[item.nodeid] = clause, (kind, params["shape"], store)
        _left_out[clause] = _reasons(item)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Notes what became of a cell; this is called for the tests of this folder alone."""
    if report.when == "call" and report.passed:
        _passed.add(report.nodeid)
    if report.failed or report.skipped:
        _failed.add(report.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the table: passed cells of cells, over the stores, by clause, kind of handler and kind of call."""
    if not _cells:
        return
    rows: dict[str, dict[tuple[str, str], list[bool]]] = collections.defaultdict(lambda: collections.defaultdict(list))
    for nodeid, (clause, (kind, shape, _)) in _cells.items():
        rows[clause][kind, shape].append(nodeid in _passed - _failed)
    write = terminalreporter.write_line
    terminalreporter.section("the contract: passed cells / cells, of the stores " + " and ".join(STORES))
    heads = {"aio": "async def on aio", "def": "def on aio", "sync": "def on grpc.server"}
    write((" " * _LABEL + "".join(f"{heads[kind]:<20}" for kind in KINDS)).rstrip())
    write((" " * _LABEL + "".join(f"{_ARROWS[shape]:<5}" for _ in KINDS for shape in SHAPES)).rstrip())
    notes: dict[str, int] = {}
    for clause, row in rows.items():
        signs = ""
        for kind in KINDS:
            for shape in SHAPES:
                cells = row.get((kind, shape))
                signs += f"{_sign(cells, clause, kind, shape, notes):<5}"
        label = clause if len(clause) < _LABEL else clause[: _LABEL - 2] + "…"
        write(f"{label:<{_LABEL}}{signs.rstrip()}")
    for why, number in notes.items():
        write(f"  -{number}: {why}")
    good = sum(sum(cells) for row in rows.values() for cells in row.values())
    write(f"{good} of {len(_cells)} cells passed, {len(rows)} clauses")


_LABEL = 74
_ARROWS = {"unary": "1→1", "server": "1→n", "client": "n→1", "bidi": "n→n"}


def _sign(cells: list[bool] | None, clause: str, kind: str, shape: str, notes: dict[str, int]) -> str:
    if cells is not None:
        return f"{sum(cells)}/{len(cells)}"
    why = _left_out[clause].get(kind) or _left_out[clause].get(shape)
    return "?" if why is None else f"-{notes.setdefault(why, len(notes) + 1)}"
