"""Drives plans by hand, effect after effect, and makes what the tests of the rules give them.

The tests are in ``test_rules_of_*.py``, by clause. Together they take every branch of the rules
(``test_coverage.py``).
"""

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, TypeVar

from grpc_idempotency._protocol import rules as protocol
from grpc_idempotency._protocol.effects import (
    Call,
    Conclusion,
    Effect,
    Ended,
    Follow,
    Followed,
    Join,
    Joined,
    Plan,
    Ran,
    Tell,
    Told,
    TryClaim,
)
from grpc_idempotency._protocol.refusals import Reason, Refusal
from grpc_idempotency.errors import StoreError, StoreUnavailable
from grpc_idempotency.policy import Policy
from grpc_idempotency.records import Claim, Code, Effects, Fingerprint, Outcome, Record, State

E = TypeVar("E", bound=Effect[Any])

FINGERPRINT = Fingerprint(raw=b"raw", canonical=b"canonical")
ANOTHER = Fingerprint(raw=b"another", canonical=b"another")
CALL = Call(b"name", "/s.S/M", FINGERPRINT, Policy(), until=7.0)
OK = Outcome(status=Code.OK, message=b"reply")
DOWN = StoreUnavailable("down")
LOST = StoreUnavailable("down", landed=None)
NOON = datetime(2024, 1, 1, 12, tzinfo=timezone.utc)


def call(**policy: Any) -> Call:
    return replace(CALL, policy=Policy(**policy))


def claim(effects: Effects = Effects.OPAQUE) -> Claim:
    return Claim(
        name=b"name",
        method="/s.S/M",
        fence=b"mine",
        fingerprint=FINGERPRINT,
        effects=effects,
        lease=Policy().lease,
    )


def record(state: State = State.RUNNING, **said: Any) -> Record:
    values: dict[str, Any] = {
        "name": b"name",
        "method": "/s.S/M",
        "state": state,
        "fence": b"theirs",
        "fingerprint": FINGERPRINT,
        "effects": Effects.OPAQUE,
        "attempts": 1,
        "created_at": NOON,
    }
    if state is State.COMPLETED:
        values |= {"completed_at": NOON, "outcome": OK}
    return Record(**(values | said))


class Hand:
    """Drives a plan by hand."""

    def __init__(self, plan: Plan[Any]) -> None:
        self._plan = plan
        self._effect: Effect[Any] | None = None
        self._result: Any = None
        self.told: list[Told] = []
        """What it has written to the log."""
        self._go(lambda: next(plan))

    def _go(self, step: Any) -> None:
        try:
            self._effect = step()
        except StopIteration as done:
            self._effect, self._result = None, done.value
        if isinstance(self._effect, Tell):
            self.told.append(self._effect.told)
            self._go(lambda: self._plan.send(None))

    def asked(self, kind: type[E]) -> E:
        """The effect that the plan asks for now."""
        assert type(self._effect) is kind, self._effect
        return self._effect

    def reply(self, kind: type[Effect[Any]], reply: Any) -> None:
        """Performs the effect of this kind that it asks for, with this reply."""
        self.asked(kind)
        self._go(lambda: self._plan.send(reply))

    def fail(self, kind: type[Effect[Any]], error: StoreError) -> None:
        """Fails the effect of this kind that it asks for."""
        self.asked(kind)
        self._go(lambda: self._plan.throw(error))

    @property
    def result(self) -> Any:
        """What the plan has returned."""
        assert self._effect is None, f"the plan is not over; it asks for {self._effect}"
        return self._result


def joined(*, leads: bool, fingerprint: Fingerprint = FINGERPRINT) -> Joined:
    return Joined(fingerprint, leads, execution=object())


def concluded(conclusion: Conclusion | None, *, leads: bool = True) -> Hand:
    """A call whose execution concludes with this."""
    hand = Hand(protocol.answer(CALL))
    hand.reply(Join, joined(leads=leads))
    hand.reply(Follow, Followed(conclusion))
    return hand


def reason_of(told: Any) -> Reason:
    assert isinstance(told, Refusal)
    return told.reason


def begun(conclusion: Conclusion | None, *, leads: bool) -> Any:
    """What a call is told that has sent messages of its execution's stream already."""
    hand = Hand(protocol.answer(replace(CALL, streams=True)))
    hand.reply(Join, joined(leads=leads))
    hand.reply(Follow, Followed(conclusion, begun=True))
    return hand.result


def claiming(standing: Record | None = None, **policy: Any) -> Hand:
    """An execution whose first try at the claim is answered so."""
    hand = Hand(protocol.operate(call(**policy), b"mine"))
    assert hand.asked(TryClaim).over is None
    hand.reply(TryClaim, standing)
    return hand


def settling(ended: Ended, effects: Effects = Effects.OPAQUE, **policy: Any) -> Hand:
    """A claimed operation whose handler has ended so."""
    return Hand(protocol.settle(call(effects=effects, **policy), claim(effects), Ran(ended), 0))
