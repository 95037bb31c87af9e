"""The glossary is whole, true to the design and the public names, and used by the other pages."""

import importlib
import re
from functools import reduce
from pathlib import Path

import pytest

from grpc_idempotency import Disposition, Effects, State

from .pages import ROOT, each_page

GLOSSARY = (ROOT / "docs/glossary.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
ENTRIES = re.findall(r"^\| \*\*(.+?)\*\* \| .+ \| (.+?) \|$", GLOSSARY, re.MULTILINE)
"""The words of the glossary, each with where it is at home."""
PUBLIC = (
    "grpc_idempotency",
    "grpc_idempotency.check",
    "grpc_idempotency.events",
    "grpc_idempotency.operator_store",
    "grpc_idempotency.records",
    "grpc_idempotency.store",
    "grpc_idempotency.transactions",
)
STEMS = {"cardinality": "cardinalities", "pass-through": "passed through", "take-over": "taken over", "try": "tries"}
"""How a clause writes a word, where the clause does not have the word itself."""


@pytest.mark.parametrize(("word", "places"), ENTRIES, ids=[word for word, _ in ENTRIES])
def test_a_word_of_the_glossary_is_at_home_where_it_says(word: str, places: str) -> None:
    """Each clause that an entry names uses the word, and each public name or target of make that it names is there."""
    clauses = _clauses() | {"how a call runs": (ROOT / "docs/explanation/how-a-call-runs.md").read_text()}
    for place in places.split(", "):
        if place.startswith("`make "):
            assert re.search(rf"^{place.strip('`').removeprefix('make ')}:", MAKEFILE, re.MULTILINE), place
        elif place.startswith("`"):
            assert any(_found(module, place.strip("`")) for module in PUBLIC), place
        else:
            stem = STEMS.get(word, word.rstrip("e"))
            assert re.search(stem, re.sub(r"\s+", " ", clauses[place]), re.IGNORECASE), (word, place)


def _clauses() -> dict[str, str]:
    """Returns the text of each clause of the design, and of each section, by its number."""
    text = (ROOT / "docs/design.md").read_text()
    sections = re.findall(r"^## (\d+)\.(.*?)(?=^## |\Z)", text, re.M | re.S)
    parts = re.findall(r"^(\d+\.\d+) (.*?)(?=^\d+\.\d+ |^## |\Z)", text, re.M | re.S)
    return dict([*sections, *parts])


def _found(module: str, path: str) -> bool:
    try:
        reduce(getattr, path.split("."), importlib.import_module(module))
    except AttributeError:
        return False
    return True


def test_the_glossary_is_in_order_and_whole() -> None:
    """Its words are sorted, none comes twice, and the states, dispositions and answers are in it."""
    words = [word for word, _ in ENTRIES]
    assert words == sorted(set(words), key=str.lower)
    assert len(words) == GLOSSARY.count("\n| **")
    text = GLOSSARY.lower()
    named = [one.value for enum in (State, Disposition, Effects) for one in enum]
    assert [one for one in [*named, "attached", "replay", "refusal", "unprotected"] if one not in text] == []


AVOIDED = re.compile(
    r"(?<!in )\bflights?\b|\bfound(?:s|ed)\b|\bboard(?:s|ed)\b|\blandings?\b|\btapes?\b", re.IGNORECASE
)


@each_page
def test_a_page_has_no_word_that_the_glossary_avoids(page: Path) -> None:
    """The words that the glossary replaces are on no other page."""
    if page.name != "glossary.md":
        assert AVOIDED.findall(page.read_text()) == []


def test_the_library_has_no_word_that_the_glossary_avoids() -> None:
    """Nor are they in the names, the docstrings or the messages of the library and the shop."""
    for folder in ("interceptors", "server"):
        for file in (ROOT / folder).rglob("*.py"):
            assert AVOIDED.findall(f"{file.stem}\n{file.read_text()}") == [], file
