"""The shop's view of the database that its store keeps: transactions, and SQL that lives in files."""

import importlib.resources
import re
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from grpc_idempotency import Database

T = TypeVar("T")
_HEADING = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


class Transactions(Protocol):
    """All that the services ask of the store. It is little, so that a test can stand in for it."""

    async def transaction(self, fn: Callable[[Database], T]) -> T:
        """Runs ``fn(db)`` in one transaction; in a keyed call what it returns is stored with the rows, as the reply."""

    async def read(self, fn: Callable[[Database], T]) -> T:
        """Answers what ``fn(db)`` reads; it is no call's reply."""


def statements(package: str, file: str = "queries.sql") -> Mapping[str, str]:
    """The statements of a file beside the code of ``package``, in their order, each by its ``-- name:``."""
    text = importlib.resources.files(package).joinpath(file).read_text(encoding="utf-8")
    parts = _HEADING.split(text)
    return dict(zip(parts[1::2], map(_without_comments, parts[2::2]), strict=True))


def _without_comments(sql: str) -> str:
    return "\n".join(line for line in sql.splitlines() if not line.startswith("--")).strip().rstrip(";")
