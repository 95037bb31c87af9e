"""Proves from the files of a run that nothing went wrong: no effect twice, no different replies, no money made or lost.

It compares three sources. The clients' history shows what was promised, the databases show what is true, and the
servers' audit shows how it happened. Each finding begins with the name of the violated rule.
"""

from collections import Counter
from pathlib import Path

from crash.answers import answers, replies, waits
from crash.effects import checkouts, committed, effects, money, records
from crash.engines import Engine
from crash.evidence import Evidence
from crash.ownership import ownership
from grpc_idempotency import State

CHECKS = (replies, answers, waits, effects, checkouts, money, records, committed, ownership)


class Checker:
    """Checks one run: its findings and figures."""

    def __init__(self, folder: Path, lease: float, engine: Engine) -> None:
        self._evidence = Evidence(folder, lease, engine)
        self.findings = [finding for check in CHECKS for finding in check(self._evidence)]

    @property
    def figures(self) -> dict[str, float]:
        """The figures of the run, by name: counts, and some times in seconds."""
        evidence = self._evidence
        told = Counter(event["e"] for event in evidence.history)
        marks = Counter(event["mark"] for event in evidence.history if event["e"] == "reply")
        audit = Counter(event["e"] for event in evidence.audit)
        return {
            "kills": told["kill"],
            "pauses": told["pause"],
            "calls": len(evidence.calls),
            "attempts": told["try"],
            "retries": told["try"] - len(evidence.calls),
            "executed": marks["executed"],
            "replayed": marks["replayed"],
            "attached": marks["attached"],
            "handler runs": audit["run"],
            "runs without a claim": sum(event["e"] == "run" and not event["claimed"] for event in evidence.audit),
            "claimed at a step": sum(event["e"] == "claim" and event["late"] for event in evidence.audit),
            "commits refused": audit["refused"],
            "taken over": sum(event["e"] == "claim" and event["over"] is not None for event in evidence.audit),
            "undone steps": sum(event["e"] == "step" and event["step"].startswith("undo:") for event in evidence.audit),
            "rollbacks swallowed": audit["swallowed"],
            "steps cut off": audit["cut"],
            "def handlers cancelled": audit["cancelled"],
            "orders confirmed": evidence.orders.rows("SELECT count(*) FROM shop_orders WHERE state = 2")[0][0],
            "held": sum(one.state is State.HELD for one in evidence.orders.stored),
            "left to their clients": sum(one.left for side in (evidence.orders, evidence.users) for one in side.stored),
            "seconds": round(evidence.history[-1]["t"] - evidence.history[0]["t"], 1),
            "longest wait after a start, s": round(self._longest(), 1),
        }

    @property
    def deaths(self) -> dict[str, int]:
        """The number of kills of servers, by the point at which they happened."""
        return dict(sorted(Counter(event["how"] for event in self._evidence.history if event["e"] == "kill").items()))

    def _longest(self) -> float:
        waited = map(self._evidence.waited, self._evidence.calls.values())
        return max((time for time in waited if time is not None), default=0.0)
