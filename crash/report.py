"""Prints the progress of a run, and tables at its end. Without a terminal it prints plain lines."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from crash.checker import Checker

_EVERY = 5.0
"""Seconds between two lines if the output is no terminal."""


class Tell(Protocol):
    """The progress of a run."""

    def __call__(self, doing: str, done: int, /) -> None: ...


@contextmanager
def progress(console: Console, total: int, unit: str) -> Iterator[Tell]:
    """Shows the progress of a run until the end of the block."""
    if not console.is_terminal:
        yield _Lines(console, total, unit)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as shown:
        task = shown.add_task("", total=total)
        yield lambda doing, done: shown.update(task, description=doing, completed=done)


class _Lines:
    """Prints a line when a new phase begins, and every few seconds."""

    def __init__(self, console: Console, total: int, unit: str) -> None:
        self._console = console
        self._of = f"of {total} {unit}"
        self._began = time.monotonic()
        self._doing = ""
        self._next = self._began

    def __call__(self, doing: str, done: int, /) -> None:
        now = time.monotonic()
        if doing == self._doing and now < self._next:
            return
        self._doing, self._next = doing, now + _EVERY
        self._console.print(f"{doing}: {done} {self._of}, {now - self._began:.0f} s", highlight=False)


def show(console: Console, checker: Checker) -> None:
    """Prints the figures of a run as tables."""
    figures = _table(console, "What happened", "", "count")
    for name, value in checker.figures.items():
        figures.add_row(name, f"{value:,}")
    deaths = _table(console, "Where servers were killed", "", "kills")
    for place, count in checker.deaths.items():
        deaths.add_row(place, f"{count:,}")
    for table in (figures, deaths):
        console.print(table)


def _table(console: Console, title: str, *headings: str) -> Table:
    table = Table(title=title)
    if not console.is_terminal:
        table.box = None
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    return table
