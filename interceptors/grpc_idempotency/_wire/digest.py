"""SHA-256, or HMAC-SHA-256 where there is a secret."""

import hashlib
import hmac
from typing import Any


def hashed(data: bytes, secret: bytes | None) -> bytes:
    if secret is None:
        return hashlib.sha256(data).digest()
    return hmac.digest(secret, data, "sha256")


def digester(secret: bytes | None) -> Any:
    """A digest that grows."""
    return hashlib.sha256() if secret is None else hmac.new(secret, digestmod="sha256")


def add_framed(digester: Any, data: bytes) -> None:
    digester.update(len(data).to_bytes(8, "big"))
    digester.update(data)
