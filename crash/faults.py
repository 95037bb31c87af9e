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
    StepsReleased,
    SwallowedRollback,
    TrailersLost,
)
from crash.patches import (
    capture_twice,
    compare_no_fingerprints,
    forget_cut_steps,
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
    peers: int = 1
    pauses: float = 0.0
    misuse: float = 0.0
    claims: float = 0.5


FAULTS = {
    "another's reply": Fault(store=AnothersReply),
    "cancelled def handler": Fault(patch=leave_threads, misuse=0.06),
    "cancelled step": Fault(patch=forget_cut_steps, misuse=0.06),
    "commit over a record": Fault(store=CommittedOverRecord, peers=2, claims=0.0),
    "commit too late": Fault(store=CommittedTooLate, claims=0.0),
    "completion before commit": Fault(store=CompletionBeforeCommit),
    "double capture": Fault(patch=capture_twice),
    "dropped fence": Fault(store=DroppedFence, peers=2, pauses=0.8),
    "fingerprints not compared": Fault(patch=compare_no_fingerprints),
    "lease ignored": Fault(store=LeaseIgnored, peers=2),
    "lost completion": Fault(store=LostCompletion),
    "lost trailers": Fault(store=TrailersLost),
    "lost undo": Fault(patch=lose_undos),
    "opaque run again": Fault(store=OpaqueAgain),
    "refused commit answered": Fault(store=RefusedCommitAnswered, peers=2, claims=0.0),
    "released after OK": Fault(store=ReleasedAfterOk),
    "reused fence": Fault(patch=reuse_fences),
    "skipped claim": Fault(store=SkippedClaim),
    "step not stored": Fault(store=StepNotStored),
    "steps released": Fault(store=StepsReleased),
    "swallowed rollback": Fault(store=SwallowedRollback, misuse=0.06),
}
