"""Faults that are injected into the lab's servers. Each is a way in which such a library can be wrong.

The lab's checker must find every one of them, which shows that it would find them in the library.
"""

from collections.abc import Callable
from dataclasses import dataclass

from crash.faulty_stores import (
    AnothersReply,
    CommittedOverRecord,
    CommittedTooLate,
    CompletionBeforeCommit,
    DroppedFence,
    LeaseIgnored,
    LostCompletion,
    OpaqueAgain,
    RefusedCommitAnswered,
    ReleasedAfterOk,
    SkippedClaim,
    StepNotStored,
    StepsKeptSlowly,
    StepsReleased,
    SwallowedRollback,
    TrailersLost,
)
from crash.patches import (
    capture_twice,
    compare_no_fingerprints,
    forget_cut_steps,
    keep_no_outcomes,
    leave_threads,
    lose_undos,
    reuse_fences,
)
from crash.store import LabStore


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault, and the settings of the lab with which it shows."""

    store: type[LabStore] = LabStore
    patch: Callable[[], None] = lambda: None
    kills: int = 0
    """The least number of kills."""
    peers: int = 1
    pauses: float = 0.0
    misuse: float = 0.0
    claims: float = 0.5


FAULTS = {
    "another's reply": Fault(store=AnothersReply, patch=keep_no_outcomes),
    "cancelled def handler": Fault(patch=leave_threads, misuse=0.06),
    "cancelled step": Fault(store=StepsKeptSlowly, patch=forget_cut_steps, kills=8, misuse=0.2, claims=1.0),
    "commit over a record": Fault(store=CommittedOverRecord, peers=2, claims=0.0),
    "commit too late": Fault(store=CommittedTooLate, claims=0.0),
    "completion before commit": Fault(store=CompletionBeforeCommit),
    "double capture": Fault(patch=capture_twice),
    "dropped fence": Fault(store=DroppedFence, kills=8, peers=2, pauses=0.8),
    "fingerprints not compared": Fault(patch=compare_no_fingerprints),
    "lease ignored": Fault(store=LeaseIgnored, peers=2, claims=1.0),
    "lost completion": Fault(store=LostCompletion),
    "lost trailers": Fault(store=TrailersLost, patch=keep_no_outcomes, kills=8),
    "lost undo": Fault(patch=lose_undos),
    "opaque run again": Fault(store=OpaqueAgain, kills=12),
    "refused commit answered": Fault(store=RefusedCommitAnswered, peers=2, claims=0.0),
    "released after OK": Fault(store=ReleasedAfterOk),
    "reused fence": Fault(patch=reuse_fences),
    "skipped claim": Fault(store=SkippedClaim),
    "step not stored": Fault(store=StepNotStored),
    "steps released": Fault(store=StepsReleased),
    "swallowed rollback": Fault(store=SwallowedRollback, misuse=0.06),
}
