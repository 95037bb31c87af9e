"""Replies, and how they are compared."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError, Message

from grpc_idempotency.check._text import plain
from grpc_idempotency.check._types import Method, is_map, is_repeated

ABOUT_THE_CALL = frozenset({"idempotency-status", "idempotency-created"})
"""Trailers that tell a replay from its first reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a client got as the answer to one call."""

    code: str
    """The status code's name."""
    details: str
    """The status message."""
    messages: tuple[bytes, ...]
    trailers: tuple[tuple[str, str | bytes], ...]
    seconds: float
    """From the call's start to its end."""

    @property
    def ok(self) -> bool:
        return self.code == "OK"

    def __str__(self) -> str:
        return self.code if self.ok or not self.details else f"{self.code} ({_short(self.details)})"


def difference(method: Method, one: Reply, other: Reply, ignored: Collection[str] = ()) -> str:
    """Returns in which way two replies differ, in words; empty if they do not differ.

    Messages are equal if their fields are: maps have no order.

    Args:
        method: The method that gave them.
        one: A reply.
        other: Another one.
        ignored: Names of trailers that may differ.
    """
    if one.code != other.code:
        return f"{one}, then {other}"
    if one.details != other.details:
        return f"its message was {_short(one.details)!r}, then {_short(other.details)!r}"
    if len(one.messages) != len(other.messages):
        return f"it had {len(one.messages)} messages, then {len(other.messages)}"
    for first, second in zip(one.messages, other.messages, strict=True):
        if first != second and not _same(method, first, second):
            return _fields(method, first, second)
    names = {name for name, _ in (*one.trailers, *other.trailers)} - ABOUT_THE_CALL - {*ignored}
    for name in sorted(names):
        if _values(one, name) != _values(other, name):
            return f"the trailer {name} was {_shown(_values(one, name))}, then {_shown(_values(other, name))}"
    return ""


def texts(value: Any) -> Iterator[str]:
    """Yields every text in a value: in a message's fields, lists and maps, however deep it lies."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Message):
        for field, inner in value.ListFields():
            if is_map(field):
                yield from texts(tuple(inner.items()))
            elif is_repeated(field):
                yield from texts(tuple(inner))
            else:
                yield from texts(inner)
    elif isinstance(value, tuple):
        for part in value:
            yield from texts(part)


def _same(method: Method, one: bytes, other: bytes) -> bool:
    try:
        return bool(method.response.FromString(one) == method.response.FromString(other))
    except DecodeError:
        return False


def _fields(method: Method, one: bytes, other: bytes) -> str:
    """Returns the first field in which two messages differ."""
    try:
        first, second = method.response.FromString(one), method.response.FromString(other)
    except DecodeError:
        return f"its message had {len(one)} bytes, then {len(other)}, and one of them can't be parsed"
    for field in first.DESCRIPTOR.fields:
        here, there = getattr(first, field.name), getattr(second, field.name)
        if here != there:
            if isinstance(here, str | int | float | bool):
                return f"its field {field.name} was {_short(here)}, then {_short(there)}"
            return f"its field {field.name} differed"
    return f"its message had {len(one)} bytes, then {len(other)}"


def _values(reply: Reply, name: str) -> list[str | bytes]:
    return [value for key, value in reply.trailers if key == name]


def _shown(values: Sequence[str | bytes]) -> str:
    if not values:
        return "absent"
    return ", ".join(_short(value if isinstance(value, str) else value.hex()) for value in values)


def _short(value: object) -> str:
    text = plain(value).replace("\n", "\\n")
    return text if len(text) <= 80 else f"{text[:77]}…"
