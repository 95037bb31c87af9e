"""Digests: SHA-256, or HMAC-SHA-256 with a secret."""

import hashlib
import hmac
from typing import Any


def hashed(data: bytes, secret: bytes | None) -> bytes:
    """Returns the digest of the data: 32 bytes."""
    if secret is None:
        return hashlib.sha256(data).digest()
    return hmac.digest(secret, data, "sha256")


def digester(secret: bytes | None) -> Any:
    """Returns a digest that data can be added to."""
    return hashlib.sha256() if secret is None else hmac.new(secret, digestmod="sha256")


def add_framed(digest: Any, data: bytes) -> None:
    """Adds the data behind its length in eight bytes, so that different sequences of data give different digests."""
    digest.update(len(data).to_bytes(8, "big"))
    digest.update(data)
