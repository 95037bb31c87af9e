"""The idempotency key: where it is found, which form it has (2.1), and the name made of it (3.1)."""

from collections.abc import Collection, Sequence

from grpc_idempotency._wire.digest import hashed

Metadata = Collection[tuple[str, str | bytes]]

_LONGEST_KEY = 255


class InvalidKey(ValueError):
    """The key breaks 2.1; the text says how, without the key."""


def carries_key(metadata: Metadata | None, headers: Sequence[str]) -> bool:
    """Whether a key came in any of these headers, well-formed or not."""
    return not {name for name, _ in metadata or ()}.isdisjoint(headers)


def find_key(metadata: Metadata, headers: Sequence[str]) -> str | None:
    """The one key that came in any of these headers, unquoted; ``None`` where none came (2.1).

    Raises :class:`InvalidKey` for a malformed key, and for several that differ.
    """
    found: str | None = None
    for name, value in metadata:
        if name in headers:
            key = parse_key(value)
            if found is not None and key != found:
                raise InvalidKey("several values came, and they differ")
            found = key
    return found


def parse_key(value: str | bytes) -> str:
    """One key as a header or a ``request_id`` carries it: a string as it is, or quoted as in RFC 8941, 3.3.3."""
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
    """The name of an operation (3.1): 16 bytes, from length-framed parts; an HMAC where there is a secret."""
    parts = (b"name", principal, method.encode(), key.encode())
    framed = b"".join([piece for part in parts for piece in (len(part).to_bytes(8, "big"), part)])
    return hashed(framed, secret)[:16]
