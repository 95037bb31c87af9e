"""The command in a terminal of its own."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from types import TracebackType

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PATIENCE = 60
_WITHOUT = "import sys; sys.modules['{}'] = None; from grpc_idempotency.__main__ import main; sys.exit(main())"
"""Runs the command as if a module were not installed."""


class Terminal:
    """Runs the command in a pseudo-terminal, types into it, and reads what it shows."""

    def __init__(
        self, *arguments: str, columns: int = 120, hidden: str = "", environment: dict[str, str] | None = None
    ) -> None:
        self._file, theirs = pty.openpty()
        self._data = b""
        self._read = 0
        there = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", _WITHOUT.format(hidden), *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={**there, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "20", **(environment or {})},
        )
        os.close(theirs)

    @property
    def raw(self) -> str:
        """All that it has shown, with its escape sequences."""
        return self._data.decode(errors="ignore")

    @property
    def shown(self) -> str:
        """All that it has shown, as text."""
        return _ESCAPES.sub("", self.raw).replace("\r\n", "\n")

    def wait_for(self, text: str) -> str:
        """Waits until it shows a text that it had not shown at the end of the last wait; returns all up to its end."""
        deadline = time.monotonic() + _PATIENCE
        while text not in self.shown[self._read :]:
            assert time.monotonic() < deadline, self.shown
            assert self._more(), self.shown
        start, self._read = self._read, self.shown.index(text, self._read) + len(text)
        return self.shown[start : self._read]

    def write(self, text: str) -> None:
        """Types a text."""
        os.write(self._file, text.encode())

    def interrupt(self) -> None:
        """Presses Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """Waits for the end of the command; returns its exit code."""
        while self._more():
            pass
        return self._process.wait(_PATIENCE)

    def _more(self) -> bool:
        """Reads what it shows next. Returns whether there may be more."""
        if not select.select([self._file], [], [], _PATIENCE)[0]:
            return False
        try:
            data = os.read(self._file, 65536)
        except OSError:  # on Linux: the other end is closed
            return False
        self._data += data
        return bool(data)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(_PATIENCE)
        os.close(self._file)
