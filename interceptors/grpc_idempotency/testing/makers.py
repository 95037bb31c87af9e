"""Functions that make claims, steps and requests, and the values that the whole suite uses."""

import os
from datetime import timedelta

from grpc_idempotency.records import Claim, Code, Effects, Fingerprint, Outcome, Step, StoredRequest

LEASE = timedelta(seconds=30)
TTL = timedelta(hours=1)
TICK = timedelta(milliseconds=1)
"""The smallest difference in time that a store must resolve."""
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
    trace: bytes = b"",
) -> Claim:
    """Makes a claim with a new fence and a new fingerprint.

    Args:
        name: The operation's name; by default a random one.
        lease: How long the claim is good for.
        method: The full name of the method.
        effects: The effects of the method's policy.
        streams: True if the method answers with a stream.
        request: The request, if the operation may be finished without its client.
        owner: The process that claims the operation.
        trace: The trace context of the call, or empty.

    Returns:
        The claim.
    """
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
        trace=trace,
    )


def a_recoverable_claim(*messages: bytes) -> Claim:
    """Returns a claim of an operation that can be run again without its client."""
    return a_claim(effects=Effects.REPEATABLE, request=a_request(*messages))


def a_transactional_claim() -> Claim:
    """Returns a claim of a transactional operation that recovery can't run again: it has no request."""
    return a_claim(effects=Effects.TRANSACTIONAL)


def a_step(name: str, *, position: int = 0, result: bytes = b"done", undoable: bool = False) -> Step:
    """Makes a finished step.

    Args:
        name: The step's name.
        position: Its index among the steps of the run.
        result: Its result, encoded.
        undoable: True if it has to be undone when the operation fails for good.

    Returns:
        The step.
    """
    return Step(name=name, position=position, result=result, undoable=undoable)


def a_request(*messages: bytes) -> StoredRequest:
    """Makes a request of a random principal, with text and binary metadata.

    Args:
        *messages: The request's messages, serialized.

    Returns:
        The request.
    """
    metadata = (("tenant", "t, ünïcode"), ("trace-bin", bytes(range(256))), ("tenant", ""))
    return StoredRequest(principal=os.urandom(16), metadata=metadata, messages=messages)
