"""Runs a check from the first connection to the report."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

from grpc_idempotency.check._calibration import calibrate, described
from grpc_idempotency.check._outcomes import Outcome, skipped, unclear
from grpc_idempotency.check._probes import PROBES, Probe
from grpc_idempotency.check._probes.streams import BothStreams
from grpc_idempotency.check._results import CannotCheck, Report, Result, Unreachable, WrongUsage
from grpc_idempotency.check._session import Session
from grpc_idempotency.check._settings import Settings
from grpc_idempotency.check._target import Target
from grpc_idempotency.check._types import Types

_PAUSE = 0.2
"""Seconds between two attempts to reach a server behind a proxy."""

Progress = Callable[[str, Result | None], object]
"""Gets the title of what begins now, or of a probe that has ended together with its result."""


def check(settings: Settings, progress: Progress = lambda _title, _result: None) -> Report:
    """Checks whether a method of a server is safe to retry. Its calls have real effects.

    Args:
        settings: What to check, and how.
        progress: Called with the title of each probe when it begins, and with its result when it has ended.

    Returns:
        The results of all probes.

    Raises:
        WrongUsage: The settings do not fit the server.
        Unreachable: The server does not answer.
        CannotCheck: A fresh call fails, or the count does not show its effect.
    """
    chosen = selected(settings)
    with _session(settings) as session:
        progress("calibration", None)
        calibrate(session)
        results = []
        for probe in PROBES:
            if probe not in chosen:
                continue
            if why := _skips(probe, session):
                results.append(_result(probe, skipped(why), settings))
                continue
            progress(probe.title, None)
            began = time.monotonic()
            outcome = _outcome(probe, session)
            results.append(_result(probe, outcome, settings, time.monotonic() - began))
            progress(probe.title, results[-1])
        return Report(
            address=settings.address,
            method=session.method.name,
            oracle=described(session),
            seed=settings.seed,
            results=tuple(results),
        )


def selected(settings: Settings) -> Sequence[Probe]:
    """Returns the probes that ``only`` and ``skip`` leave.

    Args:
        settings: The settings.

    Raises:
        WrongUsage: A name or glob matches no probe.
    """
    only, skip = _matching(settings.only), _matching(settings.skip)
    _matching([*settings.known_failing])
    return [probe for probe in PROBES if (probe in only or not settings.only) and probe not in skip]


def _matching(globs: Sequence[str]) -> list[Probe]:
    for one in globs:
        if not any(fnmatchcase(probe.id, one) for probe in PROBES):
            raise WrongUsage(f"There is no probe {one!r}. There are: {', '.join(probe.id for probe in PROBES)}.")
    return [probe for probe in PROBES if any(fnmatchcase(probe.id, one) for one in globs)]


@contextmanager
def _session(settings: Settings) -> Iterator[Session]:
    with Target(settings.address, tls=settings.tls) as target:
        target.ready(settings.wait)
        if settings.replica:
            with Target(settings.replica, tls=settings.tls) as replica:
                replica.ready(settings.wait)
        types = Types(target.channel, settings.descriptor_set, settings.caller(), settings.timeout)
        yield _answered(lambda: Session(settings, target, types), settings.wait)


def _answered(ask: Callable[[], Session], within: float) -> Session:
    """Asks until the server answers: a proxy can be reached before it."""
    end = time.monotonic() + within
    while True:
        try:
            return ask()
        except Unreachable:
            if time.monotonic() + _PAUSE >= end:
                raise
            time.sleep(_PAUSE)


def _result(probe: Probe, outcome: Outcome, settings: Settings, seconds: float = 0.0) -> Result:
    return Result(
        probe=probe.id,
        title=probe.title,
        verdict=outcome.verdict,
        happened=outcome.happened,
        means=outcome.means,
        advice=outcome.advice,
        seconds=seconds,
        known=probe in _matching([*settings.known_failing]),
    )


def _skips(probe: Probe, session: Session) -> str:
    """Returns why a probe does not apply; empty if it does."""
    if not session.takes_keys and not isinstance(probe, BothStreams):
        return "The method is refused with a key."
    return probe.skips(session)


def _outcome(probe: Probe, session: Session) -> Outcome:
    try:
        session.begin(probe.id)
        return probe.run(session)
    except WrongUsage:
        raise
    except CannotCheck as error:
        return unclear(str(error), "Look at the server's log.")
