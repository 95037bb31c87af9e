"""What is played: which calls there are, what the handler does, and which troubles may come."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from grpc_idempotency.policy import Policy
from grpc_idempotency.records import Effects

from .stores import Store

Step = tuple[str, ...]
"""One choice of a schedule: ``("step", actor)``, ``("fault", actor, kind)``, ``("crash", process)``, and so on."""


class Behaviour(enum.Enum):
    """What the first run of the handler does; every later run answers OK."""

    OK = "ok"
    RELEASING = "a status that asserts that nothing happened"
    RAISING = "raises when its effect is there"
    DOUBTING = "can't know whether its effect is there, and says so"
    CANCELLED = "is cancelled from inside when its effect is there"
    ABANDONED = "runs past its limit, can't be stopped, and answers OK in the end"
    COMMITTING = "commits its rows and its reply in one transaction"
    CATCHING = "does so too, and answers that nothing happened where its transaction fails"
    REFUSING = "answers a status that is kept, without any effect"
    STEPPING = "comes to a step, and then commits its rows and its reply in one transaction"
    """Of transactional effects alone: nothing is undone here."""


class Claims(enum.Enum):
    """Which executions claim the operation before the handler runs (5.1)."""

    ALL = "all"
    SOME = "those in process p"
    NONE = "none: the commit of the transaction writes the record"


class Fault(enum.Enum):
    """How the store can fail one call."""

    NOT_DONE = "not-done"
    DONE = "done-but-unknown"
    IN_VAIN = "not-done-but-unknown"


@dataclass(frozen=True, kw_only=True)
class Scenario:
    effects: Effects
    claims: Claims = Claims.ALL
    """All others than ``ALL`` are for transactional effects alone."""
    behaviour: Behaviour = Behaviour.OK
    calls: tuple[tuple[str, str, str], ...] = (("A", "p", "x"), ("B", "p", "x"))
    """Name, process and request of each."""
    crashes: int = 0
    """How many processes may die, each at any moment."""
    retries: bool = False
    """Whether a client whose server died calls another one again."""
    lapses: int = 0
    """How often time may pass every lease, at any moment."""
    faults: int = 0
    """How many store calls may fail, each in every way."""
    timeouts: int = 0
    """How many waits may come to the end of their budget, at any moment."""
    recoveries: int = 0
    """How often another server may look for lapsed operations without effect, at any moment."""
    renewing: bool = False
    """Whether leases are renewed."""
    earlier: str | None = None
    """A request that was answered under this key before."""
    store: Callable[[], Store] = Store

    @property
    def policy(self) -> Policy:
        return _policy(self.effects)

    def unclaimed(self, process: str) -> bool:
        """Whether the handler runs without a claim in this process."""
        return self.claims is Claims.NONE or (self.claims is Claims.SOME and not process.startswith("p"))


@cache
def _policy(effects: Effects) -> Policy:
    return Policy(effects=effects)
