"""Finds and parses the idempotency key (2.1), and computes the name of its operation (3.1)."""

import re
from collections.abc import Collection, Sequence
from hashlib import sha256
from itertools import chain
from struct import Struct

from grpc_idempotency._wire.digest import hashed

Metadata = Collection[tuple[str, str | bytes]]

_LONGEST_KEY = 255
_LENGTH = Struct(">Q").pack
_PLAIN = re.compile(r"[!#-~](?:[ -~]{0,253}[!-~])?").fullmatch
"""Matches the keys that need no parsing: valid ones without a quote at the beginning."""


class InvalidKey(ValueError):
    """The key violates 2.1. The error's text says how, without the key."""


def carries_key(metadata: Metadata | None, headers: Sequence[str]) -> bool:
    """Returns whether a key came in any of these headers, well-formed or not."""
    return not {name for name, _ in metadata or ()}.isdisjoint(headers)


def find_key(metadata: Metadata, headers: Sequence[str]) -> str | None:
    """Returns the key that came in these headers, unquoted; ``None`` if none came (2.1).

    Raises:
        InvalidKey: A key is malformed, or several different ones came.
    """
    found: str | None = None
    for name, value in metadata:
        if name in headers:
            key = value if isinstance(value, str) and _PLAIN(value) else parse_key(value)
            if found is not None and key != found:
                raise InvalidKey("several values came, and they differ")
            found = key
    return found


def parse_key(value: str | bytes) -> str:
    """Parses the value of a header or a ``request_id``: a plain string, or one quoted as in RFC 8941, 3.3.3.

    Raises:
        InvalidKey: The value is not a valid key.
    """
    if isinstance(value, bytes):
        raise InvalidKey("it is not text")
    key = _unquote(value) if value.startswith('"') else value
    if not key:
        raise InvalidKey("it is empty")
    if len(key) > _LONGEST_KEY:
        raise InvalidKey(f"it has {len(key)} characters")
    if not (key.isascii() and key.isprintable()):
        raise InvalidKey("it has characters that are not printable ASCII")
    if key[0] == " " or key[-1] == " ":
        raise InvalidKey("it begins or ends with a space")
    return key


def _unquote(value: str) -> str:
    characters = iter(value[1:])
    plain: list[str] = []
    for character in characters:
        if character == '"':
            if next(characters, None) is not None:
                raise InvalidKey("something follows its closing quote")
            return "".join(plain)
        if character == "\\":
            character = next(characters, "")
            if character not in ('"', "\\"):
                raise InvalidKey("a backslash in it escapes neither a quote nor a backslash")
        plain.append(character)
    raise InvalidKey("its closing quote is missing")


def digest_name(principal: bytes, method: str, key: str, secret: bytes | None) -> bytes:
    """Returns the name of an operation (3.1): a digest of length-framed parts, 16 bytes; an HMAC with a secret."""
    parts = (b"name", principal, method.encode(), key.encode())
    framed = b"".join(chain.from_iterable(zip(map(_LENGTH, map(len, parts)), parts, strict=True)))
    return (sha256(framed).digest() if secret is None else hashed(framed, secret))[:16]
