"""The verdict of each probe, and the report of a whole check."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass


class Verdict(enum.Enum):
    """What a probe has found out."""

    PASSED = "passed"
    FAILED = "failed"
    UNCLEAR = "unclear"
    """The probe could not tell. It is never counted as passed."""
    SKIPPED = "skipped"
    """The probe does not apply, or was not asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The verdict of one probe, with its evidence."""

    probe: str
    """The probe's id, as ``--only`` takes it."""
    title: str
    """What the probe does, in a few words."""
    verdict: Verdict
    happened: str
    """What was observed: the evidence."""
    means: str = ""
    """What that means for clients. Empty if the probe passed."""
    advice: str = ""
    """What to do about it. Empty if the probe passed."""
    seconds: float = 0.0
    """How long the probe took."""
    known: bool = False
    """True if the probe was expected to fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The results of a check."""

    address: str
    """HOST:PORT of the server."""
    method: str
    """The full name of the method that was called, ``/package.Service/Method``."""
    oracle: str
    """How effects were told from replays."""
    seed: int
    """The seed of the random instants. The same seed gives the same instants."""
    results: Sequence[Result]
    """One result for each probe, in the order in which they ran."""

    @property
    def failed(self) -> Sequence[Result]:
        """The failed probes that were not expected to fail."""
        return [one for one in self.results if one.verdict is Verdict.FAILED and not one.known]

    @property
    def unclear(self) -> Sequence[Result]:
        """The probes that could not tell."""
        return [one for one in self.results if one.verdict is Verdict.UNCLEAR and not one.known]

    @property
    def safe(self) -> bool:
        """True if at least one probe passed, and none failed or was unclear."""
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """0: safe to retry; 1: unsafe; 3: the probes can't tell."""
        if self.failed:
            return 1
        if self.unclear or all(one.verdict is Verdict.SKIPPED for one in self.results):
            return 3
        return 0


class CannotCheck(Exception):
    """The check could not begin or go on. The message says why, and what to do. Expected in normal use."""

    exit_code = 3


class WrongUsage(CannotCheck):
    """The settings do not fit the server: a method, a request or an option is wrong. Expected in normal use."""

    exit_code = 2


class Unreachable(CannotCheck):
    """The server does not answer. Expected in normal use."""

    exit_code = 4
