"""Prints the demo, with or without a terminal, and counts the promises that held or broke."""

import re
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from rich.console import Console
from rich.table import Table
from rich.text import Text

_LONG = re.compile(r"[0-9a-f]{8}(?:[0-9a-f]{24}|(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_NARROWEST = 30
_WIDEST = 110


class AudienceLeft(Exception):
    """Standard output was closed by its reader. Expected if it goes to a pager or to ``head``."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raises :class:`AudienceLeft` instead of ending the process in a print: the server has to be ended first."""
        raise AudienceLeft


def short(text: str) -> str:
    """Returns a text in which each long id is cut to its first eight characters."""
    return _LONG.sub(lambda match: f"{match[0][:8]}…", text)


def console() -> Console:
    """Returns a console on standard output, limited to a readable width. Rich itself handles NO_COLOR and pipes."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without a check mark must not make it fail
    made = _Console(highlight=False, soft_wrap=False, emoji=False)
    made.width = max(_NARROWEST, min(made.width, _WIDEST))
    return made


class Stage:
    """Prints acts, their lines, and promises."""

    def __init__(self, out: Console) -> None:
        self.failures: list[str] = []
        """The promises that did not hold, and other failures."""
        self._out = out
        self._held = 0
        self._acts = 0
        plain = not (out.encoding or "").lower().startswith("utf")
        self._good, self._bad = ("OK", "BROKEN") if plain else ("✓", "✗")

    def title(self, text: str, below: str) -> None:
        """Prints the title of the demo, and an introduction."""
        self._out.print()
        self._out.print(Text(text, style="bold"))
        self._out.print(Text(below, style="dim"))

    def act(self, headline: str) -> None:
        """Begins an act."""
        self._acts += 1
        self._out.print()
        self._out.print(Text(f"{self._acts}  {headline}", style="bold cyan"))

    def says(self, who: str, what: str, *more: str) -> None:
        """Prints what a client or a server does or gets. Further lines are details of it."""
        text = Text(short(what))
        for line in more:
            text.append("\n" + short(line), style="dim")
        self._print(Text(who, style="magenta"), text)

    def promise(self, text: str, held: bool) -> bool:
        """Prints a promise, and whether it held."""
        if held:
            self._held += 1
        else:
            self.failures.append(text)
        mark = Text(self._good, style="bold green") if held else Text(self._bad, style="bold red")
        self._print(mark, Text(text, style="green" if held else "red"))
        return held

    def broken(self, text: str) -> None:
        """Records a failure after which the story can't continue."""
        self._out.print()
        self.failures.append(text)
        self._print(Text(self._bad, style="bold red"), Text(text, style="red"))

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Prints a table of figures. The first column is text."""
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        table.add_column(heads[0], ratio=1)
        for head in heads[1:]:
            table.add_column(head, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*map(short, row))
        self._print(Text(""), table)

    def server_log(self, text: str) -> None:
        """Prints the end of the server's log, to help to find the cause."""
        if text:
            self._out.print()
            self._out.print(Text("The server's last lines:", style="dim"))
            self._out.print(Text(text, style="dim"))

    def verdict(self) -> int:
        """Prints the verdict, and returns the exit code."""
        self._out.print()
        if self.failures:
            self._out.print(Text(f"{len(self.failures)} broken, {self._held} held:", style="bold red"))
            for failure in self.failures:
                self._print(Text(self._bad, style="bold red"), Text(failure))
            return 1
        self._out.print(Text(f"All {self._held} promises held.", style="bold green"))
        return 0

    def _print(self, who: Text, what: "Text | Table") -> None:
        grid = Table.grid(padding=(0, 1), expand=False)
        grid.add_column(width=8, no_wrap=True, justify="right")
        grid.add_column(overflow="fold")
        grid.add_row(who, what)
        self._out.print(grid)
