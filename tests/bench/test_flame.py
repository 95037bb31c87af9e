"""A flame graph is drawn of a server under load."""

import sys
from pathlib import Path

import pytest

from bench.cases import CASES, Case
from bench.flame import draw
from bench.processes import Failed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="py-spy asks for root elsewhere"),
]


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name in ("first-aio", "file-sync")], ids=lambda c: c.name
)
def test_a_flame_graph_shows_the_library(case: Case, tmp_path: Path) -> None:
    """It names the case, and functions of ours without saying where on this machine they lie."""
    file = tmp_path / "flame.svg"
    try:
        assert draw(case, 4, 1.0, file) == []
    except Failed as error:
        if "ermission" in str(error):
            pytest.skip(str(error))
        raise
    text = file.read_text()
    assert case.title in text
    assert "(grpc_idempotency/" in text
    assert str(Path(__file__).parents[2]) not in text
