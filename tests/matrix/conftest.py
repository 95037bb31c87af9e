"""Makes a matrix of the tests here: each is a clause of the contract, run in every cell, and told in a table."""

import inspect
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from ..harness.handlers import ALL_KINDS
from ..postgres.conftest import Place
from ..postgres.conftest import server as postgresql
from .echo import SHAPES
from .rig import SLOW, STORES, Cell, Column, serving
from .table import CELL

__all__ = ["postgresql"]


def pytest_configure(config: pytest.Config) -> None:
    """The marks of clauses."""
    config.addinivalue_line("markers", "left_out(**reasons): where a clause does not apply, and why")
    config.addinivalue_line("markers", "any_store: a clause that no store can break, tested with the fastest one")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A clause is tested in every cell but those that it gives a reason for."""
    if "cell" not in metafunc.fixturenames:
        return
    reasons = _reasons(metafunc.definition)
    assert set(reasons) <= {*ALL_KINDS, *SHAPES, *STORES}, reasons
    stores = STORES if metafunc.definition.get_closest_marker("any_store") is None else ("memory",)
    columns = [
        pytest.param((kind, store), id=f"{kind}-{store}", marks=[pytest.mark.slow] if store in SLOW else [])
        for kind in ALL_KINDS
        for store in stores
        if not {kind, store} & set(reasons)
    ]
    metafunc.parametrize("column", columns, indirect=True)
    metafunc.parametrize("shape", [shape for shape in SHAPES if shape not in reasons])


def _reasons(definition: Any) -> dict[str, str]:
    return {name: why for mark in definition.iter_markers("left_out") for name, why in mark.kwargs.items()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def column(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Column]:
    kind, store = request.param
    place = Place(request.getfixturevalue("postgresql")) if store == "postgresql" else None
    try:
        async with serving(kind, store, tmp_path_factory.mktemp("matrix"), place) as serves:
            yield serves
    finally:
        if place is not None:
            place.drop()


@pytest.fixture
def cell(column: Column, shape: str) -> Cell:
    column.faults.down.clear()
    return Cell(column, shape)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Has each cell's report tell its place in the table; this is called for all tests."""
    for item in items:
        if isinstance(item, pytest.Function) and "cell" in item.fixturenames:
            assert item.obj.__doc__, item.nodeid
            clause = inspect.cleandoc(item.obj.__doc__).splitlines()[0]
            params: dict[str, Any] = dict(item.callspec.params)
            item.user_properties.append((CELL, [clause, params["column"][0], params["shape"], _reasons(item)]))
