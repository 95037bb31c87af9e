"""The pages are true: their code is code that runs, their links lead somewhere, and their commands exist."""

import re
from pathlib import Path

from .pages import EXAMPLES, PAGES, ROOT, anchors, blocks, each_page, prose

WIDEST = 130
"""Characters of a line of prose. A row of a table is one line, however long it is."""


@each_page
def test_code_on_a_page_is_code_that_runs(page: Path) -> None:
    """Every Python block of a page is in a file that the tests below run, letter for letter."""
    files = [file.read_text() for file in EXAMPLES.rglob("*.py")]
    for block in blocks(page, "python"):
        assert any(block in text for text in files), block


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    """Every link of a page leads to a file or a heading; one to elsewhere has the form of an address."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if ":" in target:
            assert re.fullmatch(r"https://[\w.-]+(:\d+)?(/\S*)?|mailto:\S+@\S+", target), target
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_make_has_the_commands_of_readme() -> None:
    """The commands that README tells to type are targets of the Makefile."""
    console = blocks(ROOT / "README.md", "console")
    commands = [line for block in console for line in block.splitlines() if line.startswith("make ")]
    assert commands == ["make demo", "make test", "make run", "make setup"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{command.removeprefix('make ')}:" in makefile for command in commands)


def test_prose_is_wrapped() -> None:
    """No line of a page is so long that a diff or a terminal does not show it, but rows of tables and code."""
    for page in PAGES:
        long = [line for line in prose(page).splitlines() if len(line) > WIDEST and not line.lstrip().startswith("|")]
        assert long == [], page


def test_decisions_are_listed_by_their_titles() -> None:
    """The table of decisions has each page, in order, under its number and its title."""
    folder = ROOT / "docs" / "decisions"
    pages = sorted(folder.glob("[0-9]*.md"))
    listed = re.findall(r"^\| \[(\d+)\]\((.+?)\) \| (.+) \|$", (folder / "README.md").read_text(), re.MULTILINE)
    titles = [(number, page, f"# {number}: {title}") for number, page, title in listed]
    assert titles == [(page.name[:3], page.name, page.read_text().partition("\n")[0]) for page in pages]
