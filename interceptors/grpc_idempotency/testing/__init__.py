"""The contract suite: every promise of ``grpc_idempotency.store`` as a test, for the authors of other stores.

It needs pytest with pytest-asyncio in its auto mode, or any runner that runs coroutine methods named ``test_…``. A
store's author writes a harness and one class::

    class TestMyStore(AsyncStoreContract):
        @pytest.fixture
        async def harness(self) -> AsyncIterator[MyHarness]: ...

Each test gets the harness by the fixture's name. A store with the calls of operators' tools also has to pass
:class:`OperatorContract`. One with the calls of ``grpc_idempotency.transactions`` also has to pass
:class:`AsyncTransactionalStoreContract` or, if it has ``complete_unclaimed``,
:class:`AsyncOneCommitStoreContract`. A store that blocks is tested through :func:`in_threads`, and its transactions by
:class:`TransactionalStoreContract` or :class:`OneCommitStoreContract`. Each module here contains one contract. If a
conftest calls ``pytest.register_assert_rewrite("grpc_idempotency.testing")`` before it imports from here, pytest
explains a failed ``assert``.
"""

from grpc_idempotency.testing.awaited import AwaitedContract
from grpc_idempotency.testing.claims import ClaimContract
from grpc_idempotency.testing.counting import CountContract
from grpc_idempotency.testing.crowds import CrowdContract
from grpc_idempotency.testing.deciding import DecisionContract
from grpc_idempotency.testing.fences import FenceContract
from grpc_idempotency.testing.handlers import Orders, keyed, opened, outcome_of, step_of
from grpc_idempotency.testing.harness import (
    AsyncOneCommitHarness,
    AsyncOperatorHarness,
    AsyncStoreHarness,
    AsyncTransactionHarness,
    in_threads,
)
from grpc_idempotency.testing.held import HeldContract
from grpc_idempotency.testing.identities import IdentityContract
from grpc_idempotency.testing.leases import LeaseContract
from grpc_idempotency.testing.life import LifeContract
from grpc_idempotency.testing.listing import ListContract
from grpc_idempotency.testing.makers import LEASE, METHOD, OTHER_OUTCOME, OUTCOME, TICK, TTL, a_claim, a_request, a_step
from grpc_idempotency.testing.outcomes import OutcomeContract
from grpc_idempotency.testing.reading import ReadContract
from grpc_idempotency.testing.recovery import RecoveryContract
from grpc_idempotency.testing.replies import ReplyContract
from grpc_idempotency.testing.standing import StandingContract
from grpc_idempotency.testing.steps import StepContract
from grpc_idempotency.testing.suite import (
    AsyncOneCommitStoreContract,
    AsyncStoreContract,
    AsyncTransactionalStoreContract,
    OneCommitStoreContract,
    OperatorContract,
    TransactionalStoreContract,
)
from grpc_idempotency.testing.sweeping import SweepContract
from grpc_idempotency.testing.traces import TraceContract
from grpc_idempotency.testing.transacted_steps import TransactedStepContract
from grpc_idempotency.testing.transactions import TransactionContract
from grpc_idempotency.testing.unclaimed import UnclaimedContract
from grpc_idempotency.testing.undoing import UndoContract
from grpc_idempotency.testing.waiting import WaitContract

__all__ = [
    "LEASE",
    "METHOD",
    "OTHER_OUTCOME",
    "OUTCOME",
    "TICK",
    "TTL",
    "AsyncOneCommitHarness",
    "AsyncOneCommitStoreContract",
    "AsyncOperatorHarness",
    "AsyncStoreContract",
    "AsyncStoreHarness",
    "AsyncTransactionHarness",
    "AsyncTransactionalStoreContract",
    "AwaitedContract",
    "ClaimContract",
    "CountContract",
    "CrowdContract",
    "DecisionContract",
    "FenceContract",
    "HeldContract",
    "IdentityContract",
    "LeaseContract",
    "LifeContract",
    "ListContract",
    "OneCommitStoreContract",
    "OperatorContract",
    "Orders",
    "OutcomeContract",
    "ReadContract",
    "RecoveryContract",
    "ReplyContract",
    "StandingContract",
    "StepContract",
    "SweepContract",
    "TraceContract",
    "TransactedStepContract",
    "TransactionContract",
    "TransactionalStoreContract",
    "UnclaimedContract",
    "UndoContract",
    "WaitContract",
    "a_claim",
    "a_request",
    "a_step",
    "in_threads",
    "keyed",
    "opened",
    "outcome_of",
    "step_of",
]
