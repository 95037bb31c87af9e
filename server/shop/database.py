"""The shop's database, which is also its store's: transactions, and SQL from files."""

import importlib.resources
import re
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from grpc_idempotency import Database

T = TypeVar("T")
_HEADING = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


class Transactions(Protocol):
    """The calls of the store that the services use. There are few, so that a test can replace them."""

    async def transaction(self, fn: Callable[[Database], T]) -> T:
        """Runs ``fn(db)`` in one transaction. In a keyed call its result is the reply, and is stored with the rows."""

    async def read(self, fn: Callable[[Database], T]) -> T:
        """Runs ``fn(db)``, which only reads, and returns its result. The result is not stored as a reply."""


def statements(package: str, file: str = "queries.sql") -> Mapping[str, str]:
    """Reads the statements of a file in the folder of ``package``, in their order, each under its ``-- name:``."""
    text = importlib.resources.files(package).joinpath(file).read_text(encoding="utf-8")
    parts = _HEADING.split(text)
    return dict(zip(parts[1::2], map(_without_comments, parts[2::2]), strict=True))


def _without_comments(sql: str) -> str:
    return "\n".join(line for line in sql.splitlines() if not line.startswith("--")).strip().rstrip(";")
