"""Checks the servers' audit: who owned each operation, and that nobody else ran it or stored anything."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from crash.evidence import Evidence
from crash.server import OPAQUE

_MOMENT = 1e-6
_TOLERANCE = 0.05
"""The tolerance in seconds for two clocks, and for the delay of writing a line."""


def ownership(evidence: Evidence) -> Iterator[str]:
    """Checks claims, leases, fences, runs and steps, operation by operation."""
    fences: set[str] = set()
    stories: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in evidence.audit:
        stories[event["name"]].append(event)
        if (event["e"] == "claim" and not event["late"]) or (event["e"] == "run" and not event["claimed"]):
            if event["fence"] in fences:
                yield f"a reused fence: {event['fence']}"
            fences.add(event["fence"])
    for name, story in stories.items():
        for finding in check_operation(evidence.lease, story, evidence.falls):
            yield f"{finding}: operation {name}"


def check_operation(lease: float, story: list[dict[str, Any]], falls: Sequence[float] = ()) -> Iterator[str]:
    """Checks one operation, by the events of its audit.

    A run with a claim owns the operation's record: it must run alone, and only it may store anything. A run without
    a claim (5.1) has no record. It may run beside other runs and after them, because it may have looked for a
    record before there was one. But it must not commit if a record exists.

    Args:
        lease: The length of a lease in seconds.
        story: The events.
        falls: When the engine was killed. It may lose the claim of a transactional operation then (5.1): the next claim
            finds no record.
    """
    owner, until = "", 0.0
    claimed: set[str] = set()
    unclaimed: set[str] = set()
    steps: set[str] = set()
    inside: dict[str, int] = {}
    done = False
    stands = False  # True if there certainly is a record that is not completed
    opaque = False
    ran = False
    overtaken = {event["over"]: event["t"] for event in story if event["e"] == "claim"}
    # Recovery releases an operation without effect, though its owner may only be paused (5.4).
    overtaken |= {event["fence"]: event["t"] for event in story if event["e"] == "release" and event["lapsed"]}
    lost = _lost(story, falls)
    overtaken |= lost
    runners: dict[str, set[str]] = defaultdict(set)
    left = {event["fence"]: event["t"] for event in story if event["e"] == "left"}
    for event in story:
        if event["e"] == "began":
            runners[event["step"]].add(event["fence"])

    def order(event: dict[str, Any]) -> float:
        # A process that was paused after its claim or step was stored writes its line later, perhaps after the
        # process that took the operation over. The latter found the step, and so did not run it.
        what, fence = event["e"], event["fence"]
        late = fence in overtaken and (
            what == "claim"
            or (what == "step" and event["asked"] <= overtaken[fence] and runners[event["step"]] <= {fence})
        )
        moment = 2 * _MOMENT if what == "claim" else _MOMENT
        return float(min(event["t"], overtaken[fence] - moment) if late else event["t"])

    for event in sorted(story, key=order):
        what, fence = event["e"], event["fence"]
        if what == "claim":
            if done:
                yield "claimed after its outcome was stored"
            if owner and event["t"] < until - _TOLERANCE and lost.get(owner) != event["t"]:
                yield f"a lease ignored: claimed {until - event['t']:.2f} s before its end"
            # If there was no record, the previous run released it. Its server may have died before it wrote that.
            if claimed and opaque and owner and not (ran and event["over"] is None):
                yield "opaque, and run again"
            opaque, ran, stands = event["method"] == OPAQUE, False, True
            claimed.add(fence)
            unclaimed.discard(fence)  # its handler has reached a step
        elif what in ("run", "began") and fence != owner and fence in claimed and fence in overtaken:
            continue  # it was paused and continues without knowing of the take-over; it can change nothing
        elif what == "run" and not event["claimed"]:
            unclaimed.add(fence)
        elif what == "done" and fence in unclaimed:
            if stands:
                yield "committed over a record that was not its own"
        elif what in ("run", "step", "done") and fence != owner:
            yield f"{what} under a fence that is not the owner's"
        # Once its run has ended, the operation may be released at any time; a renewal may come in between.
        if what == "claim" or (what == "renew" and fence == owner and not ran):
            owner, until = fence, event["asked"] + lease
        elif what == "ran" and fence == owner:
            # Its end may be stored although the line is missing: its server was killed before it wrote it.
            until, ran, stands = 0.0, True, False
        elif what in ("release", "wait") and fence == owner:
            owner, stands = "", what == "wait"
            if what == "release":
                steps.clear()
            if what == "release" and not event["lapsed"]:
                claimed.clear()
        elif what == "began" and event["step"] in steps:
            yield f"the step {event['step']} was run again"
        elif what in ("step", "finished"):
            steps.add(event["step"])
        elif what == "entered":
            # A run that was taken over does not know that, and one whose process was killed writes no end. Runs
            # without a claim know of each other only within one process.
            for other in inside.keys() - overtaken.keys():
                known = inside[other] == event["pid"] or not {fence, other} & unclaimed
                # It may have been paused before it came to its handler, and taken over meanwhile.
                known = known and overtaken.get(fence, event["t"]) >= event["t"]
                if known and left.get(other, 0.0) > event["t"]:
                    yield "run beside a handler that still runs"
            inside[fence] = event["pid"]
        elif what == "done":
            if done:
                yield "completed twice"
            done = True


def _lost(story: list[dict[str, Any]], falls: Sequence[float]) -> dict[str, float]:
    """Returns the fences of claims that the engine may have lost, each with the time of the claim in its place.

    A later claim shows it: it found the record as it had been before.
    """
    lost: dict[str, float] = {}
    standing: list[dict[str, Any]] = []
    for claim in sorted((event for event in story if event["e"] == "claim"), key=lambda event: float(event["t"])):
        place = next((n for n, one in enumerate(standing) if one["over"] == claim["over"]), len(standing))
        for gone in standing[place:]:
            fell = any(gone["t"] - _TOLERANCE < fall < claim["t"] for fall in falls)
            if gone["effects"] == "transactional" and fell:
                lost[gone["fence"]] = claim["t"]
        standing[place:] = [claim]
    return lost
