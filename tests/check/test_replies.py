"""How replies are compared, and how maps are put into another order."""

from dataclasses import replace
from typing import Any

import pytest

from grpc_idempotency.check._probes.bodies import _serialized
from grpc_idempotency.check._replies import Reply, difference
from grpc_idempotency.check._types import Method

from .payments.protos import SERVICE, Payment, PayRequest

PAY = Method(name=f"/{SERVICE}/Pay", request=PayRequest, response=Payment, takes_stream=False, gives_stream=False)
REPLY = Reply(
    code="OK",
    details="",
    messages=(Payment(id="1", payer="Ada").SerializeToString(),),
    trailers=(
        ("etag", "a"),
        ("etag", "b"),
        ("grpc-status-details-bin", b"\x08\x03"),
        ("idempotency-status", "executed"),
    ),
    seconds=0.1,
)
OTHER = Payment(id="2", payer="Ada").SerializeToString()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"code": "INTERNAL", "details": "lost\x1b"}, "OK, then INTERNAL (lost\\x1b)"),
        ({"details": "well done"}, "its message was '', then 'well done'"),
        ({"messages": ()}, "it had 1 messages, then 0"),
        ({"messages": (OTHER,)}, "its field id was 1, then 2"),
        ({"messages": (b"\xff",)}, "one of them can't be parsed"),
        ({"trailers": REPLY.trailers[1:]}, "the trailer etag was a, b, then b"),
        ({"trailers": (*REPLY.trailers, ("new", "c"))}, "the trailer new was absent, then c"),
        ({"trailers": (*REPLY.trailers[:2], ("grpc-status-details-bin", b"\x08\x05"))}, "was 0803, then 0805"),
    ],
)
def test_a_difference_is_named(changes: dict[str, Any], told: str) -> None:
    """Code, message, messages and every trailer count."""
    assert told in difference(PAY, REPLY, replace(REPLY, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"seconds": 5.0},
        {"trailers": (*REPLY.trailers[:-1], ("idempotency-status", "replayed"), ("idempotency-created", "today"))},
        {"trailers": (*reversed(REPLY.trailers[2:]), *REPLY.trailers[:2])},
        {"trailers": (*REPLY.trailers, ("served-by", "shop-1"))},
        {"messages": (Payment(payer="Ada").SerializeToString() + Payment(id="1").SerializeToString(),)},
    ],
)
def test_what_may_differ(changes: dict[str, Any]) -> None:
    """What tells of the call alone, the order of trailers of different names, and the order of fields do not count."""
    assert difference(PAY, REPLY, replace(REPLY, **changes), {"served-by"}) == ""


def test_maps_in_another_order() -> None:
    """The two serializations of a message differ in their bytes, and in nothing else."""
    request = PayRequest(payer="Ada", notes=["a", "b"], labels={"for": "May", "by": "transfer", "at": "noon"})
    one, other = _serialized(request, False), _serialized(request, True)
    assert one != other
    assert PayRequest.FromString(one) == PayRequest.FromString(other) == request
