"""The judgement on trials: where evidence is missing, it is unclear."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, cast

import pytest

from grpc_idempotency.check import Settings, Verdict
from grpc_idempotency.check._judgement import judged
from grpc_idempotency.check._replies import Reply
from grpc_idempotency.check._session import Effects, Session, Trial
from grpc_idempotency.check._templates import Operation

OK, HELD, BUSY = "OK", "FAILED_PRECONDITION", "UNAVAILABLE"


class Counted:
    """What the judgement asks of a session, with effects that are given."""

    settings = Settings(address="127.0.0.1:1", method="a.B/C")
    differing = True

    def __init__(self, total: float | None, each: Sequence[float] | None) -> None:
        self._total, self._each = total, each

    def effects(self, operations: Sequence[Operation], *, late: bool) -> Effects | None:
        if self._total is None:
            return None
        each = self._each and {one.marker: Fraction(n) for one, n in zip(operations, self._each, strict=True)}
        return Effects(total=Fraction(self._total), each=each or None)

    def comes_again(self, reply: Reply) -> bool:
        return reply.code == BUSY

    def difference(self, one: Reply, other: Reply) -> str:
        return "" if (one.code, one.messages) == (other.code, other.messages) else "other messages"


def trial(name: str, *codes: str, messages: Sequence[bytes] = (b"",) * 9) -> Trial:
    replies = [
        Reply(code=code, details="", messages=(message,), trailers=(), seconds=0.0)
        for code, message in zip(codes, messages, strict=False)
    ]
    return Trial(operation=Operation(key=name, marker=name, requests=()), replies=replies)


@pytest.mark.parametrize(
    ("codes", "total", "each", "verdict"),
    [
        ([OK, OK], 2, [1, 1], Verdict.PASSED),
        ([OK, OK], 2, [2, 0], Verdict.FAILED),
        ([OK, OK], 1.5, [1, 0.5], Verdict.FAILED),
        ([OK, OK], 2, None, Verdict.PASSED),
        ([OK, OK], 3, None, Verdict.FAILED),
        ([OK, OK], 1, None, Verdict.FAILED),
        ([OK, OK], None, None, Verdict.UNCLEAR),
        # Of one that is held nobody knows whether it took effect.
        ([OK, HELD], 2, [1, 1], Verdict.PASSED),
        ([OK, HELD], 1, [1, 0], Verdict.PASSED),
        ([OK, HELD], 2, [2, 0], Verdict.FAILED),
        ([OK, HELD], 1, None, Verdict.PASSED),
        ([OK, HELD], 2, None, Verdict.UNCLEAR),
        # One that never gets its reply.
        ([OK, BUSY], 2, [1, 1], Verdict.UNCLEAR),
        ([OK, "INTERNAL"], 2, [1, 1], Verdict.FAILED),
        ([OK, "INTERNAL"], 1, [1, 0], Verdict.UNCLEAR),
        ([OK, "INTERNAL"], 1, None, Verdict.FAILED),
    ],
)
def test_verdicts(codes: Sequence[str], total: float | None, each: Sequence[float] | None, verdict: Verdict) -> None:
    """By the final code of two calls, and their effects: in sum, or each."""
    trials = [trial(str(n), code) for n, code in enumerate(codes)]
    session: Any = Counted(total, each)
    outcome = judged(cast("Session", session), "They were repeated", trials, may_be_held=True)
    assert outcome.verdict is verdict, outcome.happened


def test_two_replies_to_one_call_are_a_failure() -> None:
    """Replies that tell a client to come again do not count, and all others must be equal."""
    session: Any = Counted(1, [1])
    assert judged(session, "It", [trial("a", BUSY, OK, OK)]).verdict is Verdict.PASSED
    assert judged(session, "It", [trial("a", OK, OK, messages=[b"1", b"2"])]).verdict is Verdict.FAILED
