"""Clauses that the code, the tests and the pages name are clauses of docs/design.md."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DESIGN = ROOT / "docs/design.md"
_NUMBERS = r"\d{1,2}(?:\.\d{1,2})?(?:(?:,| to| and) \d{1,2}\.\d{1,2})*"
_NAMED = re.compile(rf"(?<!\w)\(({_NUMBERS})\)|\bDESIGN(?:\.md)? ({_NUMBERS})")
"""Clauses in brackets, ``(4.5)`` or ``(4.1, 4.3)``, and those behind the document's name."""


def clauses() -> set[str]:
    """The numbers of all clauses, and of the sections that have none."""
    text = DESIGN.read_text()
    return {*re.findall(r"^(\d+\.\d+) ", text, re.MULTILINE), *re.findall(r"^## (\d+)\.", text, re.MULTILINE)}


def named(text: str) -> set[str]:
    """The clauses that a text names. A number without a point, or below 2, is a number."""
    found = {number for one, other in _NAMED.findall(text) for number in re.findall(r"\d+(?:\.\d+)?", one or other)}
    return {number for number in found if "." in number and not number.startswith(("0.", "1."))}


def test_the_clauses_are_found() -> None:
    assert {"2.1", "4.11", "5.6", "9.4", "8"} <= clauses()
    assert named("so (4.5), so (4.1, 4.3), (5.1 to 5.3), DESIGN.md 9.1, (RFC 9113, 6.5.2), f(2), 3.11") == {
        "4.5",
        "4.1",
        "4.3",
        "5.1",
        "5.3",
        "9.1",
    }


def test_no_clause_is_named_that_is_not_there() -> None:
    """A docstring that sends its reader to a clause sends them somewhere."""
    known, dangling = clauses(), []
    for folder in ("interceptors", "server", "tests", "bench", "crash", "docs", "protos"):
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in (".py", ".md", ".proto", ".sql") and file != Path(__file__):
                dangling += [f"{file.relative_to(ROOT)}: {one}" for one in sorted(named(file.read_text()) - known)]
    assert not dangling
