"""Pages of a list (AIP-158). A page begins behind the last row of the page before, so no row is skipped or repeated."""

import base64
import binascii
import hashlib
import struct
from dataclasses import dataclass
from typing import Protocol

from shop.fields import Fields

_USUAL_SIZE = 50
_LARGEST_SIZE = 1000
_TOKEN = struct.Struct(">q6s")


class Request(Protocol):
    """A request for a page."""

    page_size: int
    page_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The page that is requested."""

    after: int
    """The ``seq`` of the last row of the page before; 0 for the first page."""
    size: int
    """The most rows of the page."""


def asked(listing: str, request: Request) -> Page:
    """Returns the page that a request names.

    Args:
        request: The request.
        listing: The parameters of the list, which must be the same for the next page.
    """
    with Fields() as fields:
        if request.page_size < 0:
            fields.bad("page_size", "must not be negative")
        after = _after(listing, request.page_token)
        if after is None:
            fields.bad("page_token", "must be the next_page_token of the page before, from this very method")
    return Page(after=after or 0, size=min(request.page_size or _USUAL_SIZE, _LARGEST_SIZE))


def token(listing: str, after: int) -> str:
    """Returns the token of the page behind a row. It is opaque, but not secret: a caller may read any page."""
    return base64.urlsafe_b64encode(_TOKEN.pack(after, _check(listing, after))).decode().rstrip("=")


def _after(listing: str, sent: str) -> int | None:
    if not sent:
        return 0
    try:
        raw = base64.b64decode(sent + "=" * (-len(sent) % 4), altchars=b"-_", validate=True)
        after, check = _TOKEN.unpack(raw)
    except (binascii.Error, ValueError, struct.error):
        return None
    return int(after) if check == _check(listing, after) and token(listing, after) == sent else None


def _check(listing: str, after: int) -> bytes:
    return hashlib.blake2b(f"{listing}\n{after}".encode(), digest_size=6).digest()
