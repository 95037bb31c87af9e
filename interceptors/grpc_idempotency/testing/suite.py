"""All contracts in few classes: of every store, and of transactions for asyncio and for threads."""

from grpc_idempotency.testing.awaited import AwaitedContract
from grpc_idempotency.testing.claims import ClaimContract
from grpc_idempotency.testing.counting import CountContract
from grpc_idempotency.testing.crowds import CrowdContract
from grpc_idempotency.testing.deciding import DecisionContract
from grpc_idempotency.testing.fences import FenceContract
from grpc_idempotency.testing.held import HeldContract
from grpc_idempotency.testing.identities import IdentityContract
from grpc_idempotency.testing.leases import LeaseContract
from grpc_idempotency.testing.life import LifeContract
from grpc_idempotency.testing.listing import ListContract
from grpc_idempotency.testing.outcomes import OutcomeContract
from grpc_idempotency.testing.reading import ReadContract
from grpc_idempotency.testing.recovery import RecoveryContract
from grpc_idempotency.testing.replies import ReplyContract
from grpc_idempotency.testing.standing import StandingContract
from grpc_idempotency.testing.steps import StepContract
from grpc_idempotency.testing.sweeping import SweepContract
from grpc_idempotency.testing.traces import TraceContract
from grpc_idempotency.testing.transacted_steps import TransactedStepContract
from grpc_idempotency.testing.transactions import TransactionContract
from grpc_idempotency.testing.unclaimed import UnclaimedContract
from grpc_idempotency.testing.undoing import UndoContract
from grpc_idempotency.testing.waiting import WaitContract


class AsyncStoreContract(
    ClaimContract,
    LeaseContract,
    OutcomeContract,
    FenceContract,
    HeldContract,
    WaitContract,
    UndoContract,
    StepContract,
    RecoveryContract,
    StandingContract,
    SweepContract,
    TraceContract,
    LifeContract,
    CrowdContract,
):
    """All contracts of an asyncio store.

    Subclass it and provide the fixture ``harness``, an :class:`~grpc_idempotency.testing.AsyncStoreHarness`.
    """


class OperatorContract(ListContract, CountContract, DecisionContract):
    """All contracts of the calls of operators' tools.

    Subclass it and provide the fixture ``harness``, an :class:`~grpc_idempotency.testing.AsyncOperatorHarness`. A store
    for threads is tested through ``in_threads``.
    """


class TransactionalStoreContract(
    TransactionContract, ReadContract, ReplyContract, TransactedStepContract, IdentityContract
):
    """All contracts of ``transaction`` and ``read`` of a store for threads, tested through ``in_threads``.

    Subclass it and provide the fixture ``harness``, an :class:`~grpc_idempotency.testing.AsyncTransactionHarness`.
    """


class OneCommitStoreContract(TransactionalStoreContract, UnclaimedContract):
    """All contracts of a store for threads that also has ``complete_unclaimed``.

    Subclass it and provide the fixture ``harness``, an :class:`~grpc_idempotency.testing.AsyncOneCommitHarness`.
    """


class AsyncTransactionalStoreContract(TransactionalStoreContract, AwaitedContract):
    """All contracts of ``transaction`` and ``read`` of an asyncio store.

    Subclass it and provide the fixture ``harness``, an :class:`~grpc_idempotency.testing.AsyncTransactionHarness`.
    """


class AsyncOneCommitStoreContract(AsyncTransactionalStoreContract, UnclaimedContract):
    """All contracts of an asyncio store that also has ``complete_unclaimed``.

    Subclass it and provide the fixture ``harness``, an :class:`~grpc_idempotency.testing.AsyncOneCommitHarness`.
    """
