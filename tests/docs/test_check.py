"""What the pages say of ``grpc-idempotency check``."""

import re
from pathlib import Path

import pytest

from grpc_idempotency.check._options import options
from grpc_idempotency.check._probes import PROBES
from grpc_idempotency.check._settings import REFUSALS

from .pages import EXAMPLES, ROOT, blocks
from .servers import shell, shop

REFERENCE = (ROOT / "docs/reference/check.md").read_text()
HOW_TO = ROOT / "docs/how-to/check.md"


def test_the_table_of_probes_is_the_kits() -> None:
    """The table has every probe in its order, and says what it asks for as the code does."""
    rows = re.findall(r"^\| `([a-z-]+)` \| (.*\.) \| (.*)\|$", REFERENCE, re.MULTILINE)
    assert [(name, passes, needs.strip()) for name, passes, needs in rows] == [
        (probe.id, probe.passes, probe.needs) for probe in PROBES
    ]


def test_the_tables_of_options_are_the_kits() -> None:
    """The tables have all options, with their placeholders."""
    rows = re.findall(r"^\| `(--[a-z-]+)(?: (.*))?` \|", REFERENCE, re.MULTILINE)
    assert rows == options()


def test_the_table_of_refusals_is_the_kits() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| ([A-Z_, ]+) \|$", REFERENCE, re.MULTILINE)
    assert {kind: frozenset(codes.split(", ")) for kind, codes in rows} == REFUSALS


def test_the_profile_on_the_page_is_the_example() -> None:
    assert blocks(HOW_TO, "toml") == [(EXAMPLES / "check.toml").read_text()]


@pytest.mark.slow
def test_the_example_program(tmp_path: Path) -> None:
    """It prints the verdict of each probe, and ends with the report's exit code."""
    with shop(tmp_path) as address:
        told = shell(f"python {EXAMPLES / 'checking.py'} {address}", tmp_path)
    assert [line.split()[:2] for line in told.splitlines()] == [
        ["passed", probe] for probe in ("duplicate", "at-once", "other-body")
    ]
