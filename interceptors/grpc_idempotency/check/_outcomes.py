"""What a probe concludes: a verdict, its evidence, and for each kind of failure what it means and what to do."""

from dataclasses import dataclass
from typing import NamedTuple

from grpc_idempotency.check._results import Verdict


class Finding(NamedTuple):
    """A kind of failure."""

    means: str
    advice: str


TWICE = Finding(
    "A client that retries this call can pay, order or send twice.",
    "Claim the key before the effect, in storage that all processes share, and commit the effect and its reply "
    "together. A duplicate that comes meanwhile must wait for that reply or be refused.",
)
LOST = Finding(
    "The client was told of success, and the effect is not there.",
    "Store a reply only together with the effect that it reports, and never before.",
)
DIFFERS = Finding(
    "The retry was not answered with the first reply: the handler ran again, or the reply was not stored exactly.",
    "Store status, message and trailers of the first reply, and answer every retry with them. A trailer that tells of "
    "the call and not of its outcome, such as a time, may differ with --ignore-trailer NAME.",
)
UNANSWERED = Finding(
    "A client that lost the reply can't learn it, though its retries are correct.",
    "Answer a retry with the outcome of the first call. Refuse it only while that call runs.",
)
REUSE_EXECUTED = Finding(
    "One key had two effects. Nothing tells a client's mistake from a retry.",
    "Store a fingerprint of the request with its key, and refuse the key with another request.",
)
REUSE_SWALLOWED = Finding(
    "A second, different request was answered with the reply to the first, and was lost.",
    "Store a fingerprint of the request with its key, and refuse the key with another request.",
)
KEY_IGNORED = Finding(
    "A client believes that this key protects its call, and it does not.",
    "Refuse a key that you can't use with INVALID_ARGUMENT, before the handler runs.",
)
KEYS_MIXED = Finding(
    "Two different calls were taken for one. The second one was lost.",
    "Compare keys in full, and refuse those that are too long to be stored.",
)
UNKEYED_SWALLOWED = Finding(
    "A call without a key was taken for a repeat of another call without a key, and was lost.",
    "Let a call without a key run as if there were no protection, or refuse it.",
)
SHARED_BY_METHODS = Finding(
    "A key that two methods use for calls of their own mixes up their replies.",
    "Make the method a part of what a key is stored under.",
)
SHARED_BY_CALLERS = Finding(
    "One caller can see, or block, the operations of another one whose key it guesses.",
    "Make the caller's verified identity a part of what a key is stored under.",
)
ERROR_NOT_KEPT = Finding(
    "An error was not stored. A client that lost it gets another answer from its retry: the call that it believes to "
    "have failed may still take effect.",
    "Store a final error (INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION, …) as any other outcome, and bind its key.",
)
ORDER_MATTERS = Finding(
    "Maps have no order on the wire. A correct retry of a client that orders them anew is refused or runs again.",
    "Compare requests as messages, or by a deterministic serialization, and not by the bytes that came.",
)
TRUNCATED = Finding(
    "A stream that broke off looked complete, and a part of it took effect.",
    "Let the client announce how many messages it sends, and run nothing before all have come.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a probe concludes."""

    verdict: Verdict
    happened: str
    means: str = ""
    advice: str = ""


def passed(happened: str) -> Outcome:
    return Outcome(verdict=Verdict.PASSED, happened=happened)


def failed(happened: str, finding: Finding) -> Outcome:
    return Outcome(verdict=Verdict.FAILED, happened=happened, means=finding.means, advice=finding.advice)


def unclear(happened: str, advice: str) -> Outcome:
    return Outcome(
        verdict=Verdict.UNCLEAR,
        happened=happened,
        means="The probe can't tell whether the server is safe here.",
        advice=advice,
    )


def skipped(why: str) -> Outcome:
    return Outcome(verdict=Verdict.SKIPPED, happened=why)
