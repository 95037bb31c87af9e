"""Loads the store's SQL from files (``queries.sql``, ``migrations/``) for one schema."""

import functools
import importlib.resources
import re
from collections.abc import Iterator

from grpc_idempotency import _checks
from grpc_idempotency.errors import PolicyError

SERVER_CLOCK = "clock_timestamp()"
"""The time of the server. ``now()`` stands still within a transaction."""
_SCHEMA = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")
_HEADING = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_RECORD = (
    *("name", "state", "fence", "effects", "attempts", "failed_runs", "failed_undos", "created_at", "lease_until"),
    *("completed_at", "expires_at", "status", "owner", "method", "raw", "canonical", "streams", "reason", "resolved"),
    *("retained", "details", "trailers", "message", "trace"),
)
"""The columns of a record, as :func:`rows.record` reads them."""
_ANSWER = """SELECT {record}, c.now FROM given AS g CROSS JOIN clock AS c JOIN {s}.operations AS o ON o.name = g.name
WHERE (SELECT count(*) FROM free) < (SELECT count(*) FROM given)
    AND NOT EXISTS (SELECT 1 FROM free AS f WHERE f.name = g.name) AND (o.expires_at IS NULL OR o.expires_at > c.now)
UNION ALL SELECT d.name, {nulls}, c.now FROM done AS d CROSS JOIN clock AS c"""
_NOTED = """noted AS (
    INSERT INTO {s}.notes (operation, at, fence, by, action, reason)
    SELECT f.name, c.now, f.fence, f.by, f.action, f.note FROM free AS f CROSS JOIN clock AS c
    WHERE f.action IS NOT NULL
)"""


@functools.cache
def _sources() -> tuple[dict[str, str], tuple[str, ...]]:
    """Returns the statements by name, and the migrations in order."""
    folder = importlib.resources.files(__package__)
    parts = _HEADING.split(folder.joinpath("queries.sql").read_text(encoding="utf-8"))
    statements = dict(zip(parts[1::2], map(_without_comments, parts[2::2]), strict=True))
    scripts = [file for file in folder.joinpath("migrations").iterdir() if file.name.endswith(".sql")]
    scripts.sort(key=lambda file: file.name)
    return statements, tuple(file.read_text(encoding="utf-8") for file in scripts)


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("--")).strip()


class Sql:
    """The statements for one schema, by their names in ``queries.sql``.

    Args:
        schema: The schema of the tables: letters, digits and underscores.
        clock: An SQL expression of the present time, a ``timestamptz``.
    """

    def __init__(self, schema: str, clock: str = SERVER_CLOCK) -> None:
        if not _SCHEMA.match(schema) or schema.lower().startswith("pg_"):
            raise PolicyError(f"schema must be letters, digits and underscores, got {schema!r}")
        self.schema = schema
        statements, scripts = _sources()
        parts = {
            "answer": _ANSWER,
            "noted": _NOTED,
            "record": ", ".join(f"o.{column}" for column in _RECORD),
            "nulls": ", ".join(["NULL"] * (len(_RECORD) - 1)),
            "state": "(o.state + 0)",
            "clock": clock,
            "s": f'"{schema}"',
        }
        self._statements = {name: _filled(text, parts | {"way": ""}).encode() for name, text in statements.items()}
        for name, text in statements.items():
            if "{way}" in text:
                self._statements[f"{name}_newest"] = _filled(text, parts | {"way": " DESC"}).encode()
        self._scripts = [_filled(text, parts) for text in scripts]

    def __getitem__(self, name: str) -> bytes:
        """Returns a statement."""
        return self._statements[name]

    @property
    def version(self) -> int:
        """The version of the tables after all migrations."""
        return len(self._scripts)

    def ddl(self, since: int) -> str:
        """Returns the SQL that brings the tables from a version to the newest one, as one transaction.

        Raises:
            PolicyError: There is no such version.
        """
        if _checks.number("since", since) > self.version:
            raise PolicyError(f"the newest version of the tables is {self.version}, got {since}")
        begin = self["begin_meta"].replace(b"%(identity)s", b"replace(gen_random_uuid()::text, '-', '')")
        parts = ["BEGIN"]
        parts += [statement.decode() for statement in (self["create_schema"], self["create_meta"], begin)]
        for reached, statements in self.migrations(since):
            parts += [*statements, self["set_version"].decode().replace("%(version)s", f"'{reached}'")]
        return ";\n".join([*parts, "COMMIT", ""])

    def migrations(self, since: int) -> Iterator[tuple[int, list[str]]]:
        """Yields the versions after ``since``, each with the statements that create it."""
        for version, script in enumerate(self._scripts[since:], since + 1):
            statements = "\n".join(line.split("--")[0].rstrip() for line in script.splitlines()).split(";")
            yield version, [statement.strip() for statement in statements if statement.strip()]


def _filled(text: str, parts: dict[str, str]) -> str:
    for name, value in parts.items():
        text = text.replace(f"{{{name}}}", value)
    return text
