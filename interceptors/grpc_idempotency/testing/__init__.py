"""The contract suite: every promise of ``grpc_idempotency.store`` as a test, for the authors of other stores.

It needs pytest with pytest-asyncio in its auto mode, or any runner that runs coroutine methods named ``test_…``. A
store's author writes a harness and one class::

    class TestMyStore(AsyncStoreContract):
        @pytest.fixture
        async def harness(self) -> AsyncIterator[MyHarness]: ...

and each test gets the harness by the fixture's name. A store that blocks is tested by the same suite through
:func:`in_threads`. Each module here holds one contract. A conftest that calls
``pytest.register_assert_rewrite("grpc_idempotency.testing")`` before it imports from here makes pytest explain a failed
``assert``.
"""

from grpc_idempotency.testing.claims import ClaimContract
from grpc_idempotency.testing.crowds import CrowdContract
from grpc_idempotency.testing.fences import FenceContract
from grpc_idempotency.testing.harness import AsyncStoreHarness, in_threads
from grpc_idempotency.testing.held import HeldContract
from grpc_idempotency.testing.leases import LeaseContract
from grpc_idempotency.testing.life import LifeContract
from grpc_idempotency.testing.listing import ListContract
from grpc_idempotency.testing.makers import LEASE, METHOD, OTHER_OUTCOME, OUTCOME, TICK, TTL, a_claim, a_request, a_step
from grpc_idempotency.testing.outcomes import OutcomeContract
from grpc_idempotency.testing.recovery import RecoveryContract
from grpc_idempotency.testing.steps import StepContract
from grpc_idempotency.testing.suite import AsyncStoreContract
from grpc_idempotency.testing.sweeping import SweepContract
from grpc_idempotency.testing.waiting import WaitContract

__all__ = [
    "LEASE",
    "METHOD",
    "OTHER_OUTCOME",
    "OUTCOME",
    "TICK",
    "TTL",
    "AsyncStoreContract",
    "AsyncStoreHarness",
    "ClaimContract",
    "CrowdContract",
    "FenceContract",
    "HeldContract",
    "LeaseContract",
    "LifeContract",
    "ListContract",
    "OutcomeContract",
    "RecoveryContract",
    "StepContract",
    "SweepContract",
    "WaitContract",
    "a_claim",
    "a_request",
    "a_step",
    "in_threads",
]
