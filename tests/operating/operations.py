"""Operations in a store, for an operator to see."""

import secrets
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from grpc_idempotency import Effects, SQLiteStore
from grpc_idempotency.records import Claim, Fingerprint

METHODS = ("/a.A/One", "/a.A/Two", "/b.B/One")


Printed = Callable[[], str]


def add(store: SQLiteStore, method: str = METHODS[0], name: bytes | None = None, **options: Any) -> Claim:
    claim = Claim(
        name=name or secrets.token_bytes(16),
        method=method,
        fence=secrets.token_bytes(16),
        fingerprint=Fingerprint(raw=b"r" * 32, canonical=b"c" * 32),
        effects=Effects.OPAQUE,
        lease=options.get("lease", timedelta(seconds=30)),
        streams=options.get("streams", False),
        owner="host:7",
    )
    assert store.claim(claim) is None
    return claim


def held(store: SQLiteStore, name: bytes | None = None, **options: Any) -> Claim:
    claim = add(store, name=name, **options)
    assert store.hold(claim.name, claim.fence, "its server stopped")
    return claim


def complaints(stderr: str) -> list[str]:
    """What the command has said, but for what the store says of a file that several processes share."""
    return [line for line in stderr.splitlines() if not line.startswith("several processes share ")]
