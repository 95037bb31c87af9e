"""The files of a run, which its checker reads: lines of JSON."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ENGINE = "the engine"
"""How a kill of the engine is told, where others name a point."""
HISTORY = "history.jsonl"
"""The history: every attempt and reply of the clients, and every start and death of the servers."""
AUDIT = "audit.jsonl"
"""The audit: what the servers did to their stores, and when handlers ran."""


class Journal:
    """Appends lines, each with one write, so that the lines of a killed process are complete."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, event: str, **fields: object) -> None:
        """Writes one event, with the current time of the machine's monotonic clock."""
        line = json.dumps({"e": event, "t": self.now(), **fields}) + "\n"
        os.write(self._file, line.encode())

    @staticmethod
    def now() -> float:
        """Returns the current time of the machine's monotonic clock."""
        return round(time.monotonic(), 4)

    def close(self) -> None:
        os.close(self._file)


def events(path: Path) -> Iterator[dict[str, Any]]:
    """Reads all events of a journal."""
    with path.open() as lines:
        for line in lines:
            yield json.loads(line)
