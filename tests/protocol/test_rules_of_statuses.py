"""Which statuses are stored, and which release the operation (4.5, 4.6)."""

import pytest

from grpc_idempotency._protocol import rules as protocol
from grpc_idempotency.policy import Disposition, Policy
from grpc_idempotency.records import Code, Effects

STORED, FREED = Disposition.STORE, Disposition.RELEASE
STATUSES = {
    # status: opaque, transactional, repeatable
    Code.OK: (STORED, STORED, STORED),
    Code.CANCELLED: (STORED, FREED, FREED),
    Code.UNKNOWN: (STORED, FREED, FREED),
    Code.INVALID_ARGUMENT: (STORED, STORED, STORED),
    Code.DEADLINE_EXCEEDED: (STORED, FREED, FREED),
    Code.NOT_FOUND: (STORED, STORED, STORED),
    Code.ALREADY_EXISTS: (STORED, STORED, STORED),
    Code.PERMISSION_DENIED: (FREED, FREED, FREED),
    Code.RESOURCE_EXHAUSTED: (FREED, FREED, FREED),
    Code.FAILED_PRECONDITION: (STORED, STORED, STORED),
    Code.ABORTED: (FREED, FREED, FREED),
    Code.OUT_OF_RANGE: (STORED, STORED, STORED),
    Code.UNIMPLEMENTED: (STORED, STORED, STORED),
    Code.INTERNAL: (STORED, FREED, FREED),
    Code.UNAVAILABLE: (FREED, FREED, FREED),
    Code.DATA_LOSS: (STORED, STORED, STORED),
    Code.UNAUTHENTICATED: (FREED, FREED, FREED),
}


@pytest.mark.parametrize("status", Code)
def test_each_status_is_stored_or_released_as_the_design_says(status: Code) -> None:
    """All 17 statuses under each of the three effects (4.5, 4.6)."""
    by_effects = zip((Effects.OPAQUE, Effects.TRANSACTIONAL, Effects.REPEATABLE), STATUSES[status], strict=True)
    for effects, expected in by_effects:
        assert protocol.disposition(status, Policy(effects=effects)) is expected


@pytest.mark.parametrize("status", [code for code in Code if code is not Code.OK])
@pytest.mark.parametrize("wanted", Disposition)
def test_a_policy_can_change_each_status(status: Code, wanted: Disposition) -> None:
    """But for OK (4.6)."""
    for effects in Effects:
        policy = Policy(effects=effects, statuses={status: wanted})
        assert protocol.disposition(status, policy) is wanted
