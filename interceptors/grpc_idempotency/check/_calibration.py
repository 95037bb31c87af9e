"""Finds out what a fresh call looks like: its effect, its replies and its latency."""

import time
from statistics import median

from grpc_idempotency.check._replies import Reply
from grpc_idempotency.check._results import CannotCheck, Unreachable, WrongUsage
from grpc_idempotency.check._session import Session
from grpc_idempotency.check._templates import Operation

_TIMED = 5
_LATEST, _PAUSE = 5.0, 0.05
"""Seconds in which the effects of fresh calls must show, and how often they are counted meanwhile."""
_WRONG_REQUEST = {
    "INVALID_ARGUMENT",
    "UNIMPLEMENTED",
    "NOT_FOUND",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "OUT_OF_RANGE",
}


def calibrate(session: Session) -> None:
    """Makes calls under fresh keys, which select the oracle.

    Args:
        session: The session, which learns the results.

    Raises:
        CannotCheck: A fresh call fails, or the count does not show its effect.
    """
    session.begin("calibration")
    one, two = session.fresh(), session.fresh()
    if session.method.takes_stream and session.method.gives_stream:
        session.takes_keys = not session.settings.refused("streaming-unsupported", session.call(session.fresh()).code)
        if not session.takes_keys:
            return
        session.rebase()
    first = _succeeded(session, one)
    _succeeded(session, two)
    if session.oracle is not None:
        _learn_lag(session, one, two)
        _learn_unit(session, one, two)
    again = session.call(session.under(one, session.fresh().key))
    session.differing = again.ok and bool(session.difference(first, again))
    session.latency = median(_succeeded(session, session.fresh()).seconds for _ in range(_TIMED))


def described(session: Session) -> str:
    """Returns how effects are told from replays, in words."""
    if not session.takes_keys:
        return "none: the method is refused with a key"
    if session.oracle is not None:
        return str(session.oracle)
    if session.differing:
        return "replies: fresh calls get different ones. Effects are not counted"
    return "none: fresh calls get equal replies, and effects are not counted"


def _learn_lag(session: Session, one: Operation, two: Operation) -> None:
    began = time.monotonic()
    while not session.shows((one, two)) and time.monotonic() < began + _LATEST:
        time.sleep(_PAUSE)
        session.lag = time.monotonic() - began


def _learn_unit(session: Session, one: Operation, two: Operation) -> None:
    effects = session.effects((one, two), late=True)
    if effects is None:
        return
    each = set(effects.each.values()) if effects.each is not None else {effects.total / 2}
    unit = min(each)
    if len(each) != 1 or unit == 0 or unit.denominator != 1:
        told = " and ".join(f"{float(value):g}" for value in sorted(effects.each.values() if effects.each else each))
        raise CannotCheck(
            f"Two calls under fresh keys must have two effects of one size, but the count changed by {told} "
            f"for a call. Correct --count-path or --count-request. The oracle: {session.oracle}."
        )
    session.unit = int(unit)


def _succeeded(session: Session, operation: Operation) -> Reply:
    reply = session.call(operation)
    if reply.ok:
        return reply
    told = f"A call of {session.method.name[1:]} under a fresh key fails: {reply.code}: {reply.details}"
    if reply.code == "UNAVAILABLE":
        raise Unreachable(told)
    if reply.code in _WRONG_REQUEST:
        raise WrongUsage(f"{told}\nCorrect --method, --request, --metadata or --as: the call must succeed.")
    raise CannotCheck(told)
