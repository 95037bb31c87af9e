"""All contracts in one class."""

from grpc_idempotency.testing.claims import ClaimContract
from grpc_idempotency.testing.crowds import CrowdContract
from grpc_idempotency.testing.fences import FenceContract
from grpc_idempotency.testing.held import HeldContract
from grpc_idempotency.testing.leases import LeaseContract
from grpc_idempotency.testing.life import LifeContract
from grpc_idempotency.testing.listing import ListContract
from grpc_idempotency.testing.outcomes import OutcomeContract
from grpc_idempotency.testing.recovery import RecoveryContract
from grpc_idempotency.testing.steps import StepContract
from grpc_idempotency.testing.sweeping import SweepContract
from grpc_idempotency.testing.waiting import WaitContract


class AsyncStoreContract(
    ClaimContract,
    LeaseContract,
    OutcomeContract,
    FenceContract,
    HeldContract,
    WaitContract,
    StepContract,
    RecoveryContract,
    ListContract,
    SweepContract,
    LifeContract,
    CrowdContract,
):
    """All contracts of an asyncio store.

    Inherit from it and provide the fixture ``harness``, an :class:`~grpc_idempotency.testing.AsyncStoreHarness`.
    """
