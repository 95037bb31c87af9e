"""Loads the store's SQL from files (``queries.sql``, ``migrations/``) for one table prefix."""

import functools
import importlib.resources
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from grpc_idempotency import _checks
from grpc_idempotency.errors import PolicyError

_PREFIX = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")
_HEADING = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_TABLES = ("methods", "operations", "steps", "notes", "peers", "meta")
MOST_ROWS = 128
"""The maximum number of rows in one statement."""


@functools.cache
def _sources() -> tuple[dict[str, str], tuple[str, ...]]:
    """Returns the statements by name, and the migrations in order."""
    folder = importlib.resources.files(__package__)
    parts = _HEADING.split(folder.joinpath("queries.sql").read_text(encoding="utf-8"))
    statements = dict(zip(parts[1::2], map(_without_comments, parts[2::2]), strict=True))
    record = statements.pop("record")
    statements = {name: text.replace("{record}", record) for name, text in statements.items()}
    scripts = [file for file in folder.joinpath("migrations").iterdir() if file.name.endswith(".sql")]
    scripts.sort(key=lambda file: file.name)
    return statements, tuple(file.read_text(encoding="utf-8") for file in scripts)


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("--")).strip()


class _Sized(dict[tuple[str, int, int], str]):
    """Statements of many rows, by name, number of columns (0 for a bare list) and number of rows.

    It is a dictionary, so that looking up a known statement calls no Python function.
    """

    def __init__(self, statements: Mapping[str, str]) -> None:
        super().__init__()
        self._statements = statements

    def __missing__(self, key: tuple[str, int, int]) -> str:
        name, columns, rows = key
        row = f"({', '.join('?' * columns)})" if columns else "?"
        self[key] = text = self._statements[name].replace("{rows}", ", ".join([row] * rows))
        return text


class Sql:
    """The statements for one prefix, by their names in ``queries.sql``."""

    def __init__(self, prefix: str) -> None:
        if not _PREFIX.match(prefix) or prefix.lower().startswith("sqlite_"):
            raise PolicyError(f"table_prefix must be letters, digits and underscores, got {prefix!r}")
        self.prefix = prefix
        statements, scripts = _sources()
        self._statements = {name: text.replace("{p}", prefix) for name, text in statements.items()}
        self._scripts = [text.replace("{p}", prefix) for text in scripts]
        self.sized = _Sized(self._statements)

    def __getitem__(self, name: str) -> str:
        """Returns a statement with a fixed number of rows."""
        return self._statements[name]

    def by_names(self, name: str, names: Sequence[bytes]) -> tuple[str, list[bytes | int | None]]:
        """Returns the statement for operations of these names, and its parameters."""
        size = PADDED[len(names)]
        return self.sized[name, 0, size], [*names, *([None] * (size - len(names)))]

    def inserting(self, name: str, rows: Sequence[tuple[Any, ...]], now: int) -> tuple[str, list[Any]]:
        """Returns the statement that inserts rows whose names are absent or expired, and its parameters.

        Copies of the last row fill the statement up, without the payload, which is the last value. A copy conflicts
        with its original, so it changes nothing and is not counted.
        """
        size = PADDED[len(rows)]
        values = [*chain.from_iterable(rows)]
        values += [*rows[-1][:-1], None] * (size - len(rows))
        return self.sized[name, len(rows[0]), size], [*values, now]

    def ddl(self, since: int) -> str:
        """Returns the SQL that brings the tables from a version to the newest one, as one transaction.

        Raises:
            PolicyError: There is no such version.
        """
        if _checks.number("since", since) > self.version:
            raise PolicyError(f"the newest version of the tables is {self.version}, got {since}")
        parts = ["BEGIN IMMEDIATE;", f"{self['create_meta']};"]
        for version, script in enumerate(self._scripts[since:], since + 1):
            reached = f"INSERT OR REPLACE INTO {self.prefix}meta VALUES ('version', {version});"  # noqa: S608 - checked
            parts += [script.strip(), reached]
        return "\n".join([*parts, "COMMIT;", ""])

    @property
    def tables(self) -> list[str]:
        """The names of the store's tables, in lower case."""
        return [(self.prefix + table).lower() for table in _TABLES]

    @property
    def version(self) -> int:
        """The version of the tables after all migrations."""
        return len(self._scripts)

    def migrations(self, since: int) -> Iterator[tuple[int, list[str]]]:
        """Yields the versions after ``since``, each with the statements that create it."""
        for version, script in enumerate(self._scripts[since:], since + 1):
            yield version, list(_split(script))


def padded(rows: int) -> int:
    """Returns the size of the statement to use for this number of rows: the next power of two.

    There are few sizes, so that SQLite can keep each statement prepared.
    """
    return 1 << (rows - 1).bit_length()


PADDED = (0, *map(padded, range(1, MOST_ROWS + 1)))
"""The results of :func:`padded` by number of rows."""


def _split(script: str) -> Iterator[str]:
    """Splits a script into statements for ``execute``; ``executescript`` would commit the open transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
