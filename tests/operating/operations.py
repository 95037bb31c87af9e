"""Operations in a store, for an operator to see."""

import secrets
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from grpc_idempotency import Effects
from grpc_idempotency.operator_store import OperatorStore
from grpc_idempotency.records import Claim, Fingerprint

METHODS = ("/a.A/One", "/a.A/Two", "/b.B/One")
REASON = ("--reason", "ticket 7", "--by", "ann@desk", "--yes")
"""What a script gives to commands that change an operation."""

FIELDS = [
    *(
        "operation",
        "state",
        "method",
        "effects",
        "streams",
        "fence",
        "owner",
        "attempts",
        "failed_runs",
        "failed_undos",
    ),
    *("lapsed", "reason", "created", "completed", "expires", "status", "details", "message_bytes", "resolved"),
    *("failure", "failure_details", "traceparent"),
]
"""The fields of an operation in JSON."""


Printed = Callable[[], str]


def add(store: OperatorStore, method: str = METHODS[0], name: bytes | None = None, **options: Any) -> Claim:
    claim = Claim(
        name=name or secrets.token_bytes(16),
        method=method,
        fence=secrets.token_bytes(16),
        fingerprint=Fingerprint(raw=b"r" * 32, canonical=b"c" * 32),
        effects=options.get("effects", Effects.OPAQUE),
        lease=options.get("lease", timedelta(seconds=30)),
        streams=options.get("streams", False),
        trace=options.get("trace", b""),
        owner="host:7",
    )
    assert store.claim(claim) is None
    return claim


def lapsed(store: OperatorStore, **options: Any) -> Claim:
    claim = add(store, **options, lease=timedelta(microseconds=1))
    while not store.standing([claim.name])[claim.name].lapsed:
        pass
    return claim


def held(store: OperatorStore, name: bytes | None = None, **options: Any) -> Claim:
    claim = add(store, name=name, **options)
    assert store.hold(claim.name, claim.fence, "its server stopped")
    return claim
