"""What the command prints: tables and lines, or JSON. On a terminal it is in colours if rich is installed."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TextIO

from grpc_idempotency._command.text import plain
from grpc_idempotency.records import State

_GAP = "  "
_CLEAR = "\x1b[H\x1b[2J\x1b[3J"

STYLES = {
    State.RUNNING: "cyan",
    State.COMPLETED: "green",
    State.UNDOING: "magenta",
    State.WAITING: "yellow",
    State.HELD: "bold red",
}
"""The style of each state, in rich's words."""


class Cell(NamedTuple):
    """A text and its style, in rich's words."""

    text: str
    style: str = ""


class Output:
    """Prints to a stream. All text is escaped, since parts of it come from others.

    Args:
        stream: Where to print.
        as_json: True if results are printed as JSON, one object in each line.
    """

    def __init__(self, stream: TextIO, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.terminal = stream.isatty()
        """True if a person reads it: lines are then cut at the width of the terminal."""
        self._stream = stream
        self._console = _console(stream) if self.terminal else None

    def json(self, values: Mapping[str, Any]) -> None:
        """Prints an object in one line."""
        self._write(json.dumps(values) + "\n")

    def raw(self, text: str) -> None:
        """Prints a text of the library's own as it is."""
        self._write(text)

    def line(self, *cells: Cell | str) -> None:
        """Prints cells in one line, with a space between them. A long line is wrapped by the terminal."""
        self._print([_cell(cell) for cell in cells if _cell(cell).text], " ")

    def table(self, header: Sequence[str], rows: Iterable[Sequence[Cell | str]]) -> None:
        """Prints rows under a header. On a terminal each row is one line, cut at its width."""
        table = [[Cell(name, "bold") for name in header], *([_cell(cell) for cell in row] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*([c.text for c in row] for row in table), strict=True)]
        for row in table:
            padded = [Cell(cell.text.ljust(width), cell.style) for cell, width in zip(row, widths, strict=True)]
            self._print(padded, _GAP, cut=self.terminal)

    def clear(self) -> None:
        """Clears the terminal."""
        self._write(_CLEAR)

    @property
    def height(self) -> int:
        """The number of lines of the terminal."""
        return shutil.get_terminal_size().lines

    def _print(self, cells: Sequence[Cell], gap: str, *, cut: bool = False) -> None:
        width = shutil.get_terminal_size().columns if cut else None
        if self._console is None:
            line = gap.join(cell.text for cell in cells).rstrip()
            self._write((line if width is None or len(line) <= width else f"{line[: width - 1]}…") + "\n")
            return
        from rich.text import Text

        text = Text(gap).join(Text(cell.text, cell.style) for cell in cells)
        text.rstrip()
        if width is not None:
            text.truncate(width, overflow="ellipsis")
        self._console.print(text, soft_wrap=True)

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _cell(cell: Cell | str) -> Cell:
    text, style = cell if isinstance(cell, Cell) else (cell, "")
    return Cell(plain(text), style)


def _console(stream: TextIO) -> Any:
    """Returns rich's console, or ``None`` where rich is not installed."""
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(file=stream, highlight=False)
