"""Checks requests, and reports all violations of a request at once."""

import unicodedata
from collections.abc import Sequence
from types import TracebackType

from google.protobuf.field_mask_pb2 import FieldMask
from google.type.money_pb2 import Money

from shop.errors import InvalidRequest
from shop.money import problems

LONGEST_ID = 100
_LONGEST_EMAIL = 254  # RFC 5321, 4.5.3.1.3
_MOST_KEPT = 100  # an answer has no room for more


class Fields:
    """Collects violations. At the end of its ``with`` block it raises :class:`~shop.errors.InvalidRequest` if any."""

    def __init__(self) -> None:
        self._problems: list[tuple[str, str]] = []
        self.count = 0
        """The number of all violations. Only the first ones are kept."""

    def __enter__(self) -> "Fields":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None and self._problems:
            raise InvalidRequest(self._problems, self.count)

    def bad(self, field: str, problem: str) -> None:
        """Records that a field is not valid, and what it must be."""
        self.count += 1
        if len(self._problems) < _MOST_KEPT:
            self._problems.append((field, problem))

    def text(self, field: str, value: str, *, longest: int) -> None:
        """Checks that a text is not blank, has at most ``longest`` characters, and has no control characters."""
        if not value.strip():
            self.bad(field, "is required")
        elif len(value) > longest:
            self.bad(field, f"must have at most {longest} characters")
        elif any(unicodedata.category(character) == "Cc" for character in value):
            self.bad(field, "must not have control characters")

    def id(self, field: str, value: str) -> None:
        """Checks the form of an id, and not whether there is such a resource."""
        self.text(field, value, longest=LONGEST_ID)

    def email(self, field: str, value: str) -> None:
        """Checks the form of an email address, and not whether it can receive mail."""
        local, _, domain = value.rpartition("@")
        if not value.strip():
            self.bad(field, "is required")
        elif len(value) > _LONGEST_EMAIL:
            self.bad(field, f"must have at most {_LONGEST_EMAIL} characters")
        elif not local or not domain or "@" in local or any(c.isspace() or not c.isprintable() for c in value):
            self.bad(field, "must be an email address, as in name@example.com")

    def money(self, field: str, value: Money | None, *, zero: bool = False) -> None:
        """Checks an amount, which is ``None`` if the request has none. It may be zero if ``zero``."""
        if value is None:
            self.bad(field, "is required")
            return
        for part, problem in problems(value, zero=zero):
            self.bad(f"{field}.{part}" if part else field, problem)

    def mask(self, field: str, value: FieldMask, *, allowed: Sequence[str]) -> None:
        """Checks a mask: each path names a field that may be changed, or ``*`` alone stands for all of them."""
        if list(value.paths) == ["*"]:
            return
        unknown = [path for path in value.paths if path not in allowed]
        if unknown:
            self.bad(field, f"can name {', '.join(allowed)}, or * alone; not {_shown(unknown[0])}")


def _shown(text: str) -> str:
    """Returns a client's text in a form that fits into a message."""
    return ascii(text if len(text) <= LONGEST_ID else f"{text[:LONGEST_ID]}...")
