"""Records ``make demo`` as a picture: ``python -m docsite.recording [FILE]``."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from docsite.pages import FIGURES

_COLUMNS = 100


class DemoFailed(Exception):
    """The demo broke a promise. The message is what it printed."""


def recorded() -> str:
    """Runs the demo in a terminal, and returns what it prints, with the codes for colours.

    Raises:
        DemoFailed: It did not end with exit code 0.
    """
    reading, writing = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(_COLUMNS), "COLORTERM": "truecolor"}
    environment.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "shop.demo"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=writing, stderr=writing, env=environment) as demo:
        os.close(writing)
        text = _all_of(reading).decode().replace("\r\n", "\n")
    os.close(reading)
    if demo.returncode != 0:
        raise DemoFailed(text)
    return text


def _all_of(reading: int) -> bytes:
    text = b""
    while True:
        try:
            more = os.read(reading, 65536)
        except OSError:  # Linux says so where the other side of a terminal is closed
            return text
        if not more:
            return text
        text += more


def drawn(text: str) -> str:
    """Returns a picture of a terminal with this text, as SVG that loads nothing from elsewhere.

    Args:
        text: The text, with the codes for colours.
    """
    console = Console(record=True, width=_COLUMNS, file=StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(f"$ make demo\n{text.rstrip()}"))
    svg = console.export_svg(title="make demo", theme=MONOKAI, unique_id="demo")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # they name a server that has the font
    return svg.replace("Fira Code", "ui-monospace, SFMono-Regular, Menlo, Consolas")


def main(arguments: Sequence[str]) -> int:
    """Records the demo into a file, and returns the exit code."""
    file = Path(arguments[0]) if arguments else FIGURES / "demo.svg"
    try:
        file.write_text(drawn(recorded()))
    except DemoFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
