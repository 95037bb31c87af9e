"""Makers of claims, steps and requests, and the values that the whole suite uses."""

import os
from datetime import timedelta

from grpc_idempotency.records import Claim, Code, Effects, Fingerprint, Outcome, Step, StoredRequest

LEASE = timedelta(seconds=30)
TTL = timedelta(hours=1)
TICK = timedelta(milliseconds=1)
"""The smallest step of time that a store must tell apart."""
METHOD = "/shop.orders.v1.OrderService/CreateOrder"
OUTCOME = Outcome(status=Code.OK, message=b"\x0a\x05first")
FAILURE = Outcome(status=Code.FAILED_PRECONDITION, details="no credit", trailers=(("x-credit", "0"),))
OTHER_OUTCOME = Outcome(status=Code.NOT_FOUND, details="no such user")


def a_claim(
    name: bytes | None = None,
    *,
    lease: timedelta = LEASE,
    method: str = METHOD,
    effects: Effects = Effects.OPAQUE,
    streams: bool = False,
    request: StoredRequest | None = None,
    owner: str = "host:1",
) -> Claim:
    """A claim under a fresh fence, with another fingerprint each time."""
    return Claim(
        name=name or os.urandom(16),
        method=method,
        fence=os.urandom(16),
        fingerprint=Fingerprint(raw=os.urandom(32), canonical=os.urandom(32)),
        effects=effects,
        lease=lease,
        streams=streams,
        request=request,
        owner=owner,
    )


def a_recoverable_claim(*messages: bytes) -> Claim:
    """A claim of an operation that can be run again without its client."""
    return a_claim(effects=Effects.REPEATABLE, request=a_request(*messages))


def a_step(name: str, *, position: int = 0, result: bytes = b"done", undoable: bool = False) -> Step:
    """A finished step."""
    return Step(name=name, position=position, result=result, undoable=undoable)


def a_request(*messages: bytes) -> StoredRequest:
    """A request of somebody's, with metadata of both kinds."""
    metadata = (("tenant", "t, ünïcode"), ("trace-bin", bytes(range(256))), ("tenant", ""))
    return StoredRequest(principal=os.urandom(16), metadata=metadata, messages=messages)
