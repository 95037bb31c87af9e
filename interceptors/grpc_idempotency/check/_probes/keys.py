"""Keys that a server has to refuse, or to take as they are."""

import uuid
from collections.abc import Sequence
from fractions import Fraction

from grpc_idempotency.check._judgement import COUNT
from grpc_idempotency.check._outcomes import (
    KEY_IGNORED,
    KEYS_MIXED,
    UNKEYED_SWALLOWED,
    Outcome,
    failed,
    passed,
    unclear,
)
from grpc_idempotency.check._probes.base import Probe
from grpc_idempotency.check._replies import Reply
from grpc_idempotency.check._session import Session
from grpc_idempotency.check._settings import Metadata
from grpc_idempotency.check._templates import Operation


def _upper(what: str) -> str:
    return f"{what[0].upper()}{what[1:]}"


def _key() -> str:
    return str(uuid.uuid4())


class _BadKey(Probe):
    """A key that must be refused; if it is taken all the same, it must protect its call."""

    needs = "a key in metadata"

    def skips(self, session: Session) -> str:
        return "The key is a field of the request." if session.settings.key_field else ""

    def keys(self, session: Session) -> Sequence[tuple[str, Metadata, Metadata]]:
        """Returns for each bad key its description, and the metadata of the call and of its retry."""
        raise NotImplementedError

    def run(self, session: Session) -> Outcome:
        refused, taken = [], []
        for what, first, again in self.keys(session):
            operation = session.fresh()
            replies = [session.call(operation, key=first), session.call(operation, key=again)]
            effects = session.effects((operation,))
            session.rebase()
            if all(session.settings.refused("key-invalid", reply.code) for reply in replies):
                if effects is not None and effects.total > 0:
                    return failed(f"{_upper(what)}: refused with {replies[0].code}, but it took effect.", KEY_IGNORED)
                refused.append(what)
                continue
            outcome = self._taken(session, what, operation, replies, None if effects is None else effects.total)
            if outcome is not None:
                return outcome
            taken.append(what)
        told = (("Refused", refused), ("Taken, and protected", taken))
        return passed(" ".join(f"{how}: {', '.join(which)}." for how, which in told if which))

    def _taken(
        self, session: Session, what: str, operation: Operation, replies: Sequence[Reply], effects: Fraction | None
    ) -> Outcome | None:
        """Returns the verdict on a key that was not refused; ``None`` if it protected its call."""
        one, other = replies
        if not (one.ok and other.ok):
            wrong = other if one.ok else one
            return unclear(
                f"{_upper(what)}: it got {wrong}.", f"If that is the refusal: --refusal key-invalid={wrong.code}."
            )
        if effects is not None and effects != 1:
            return failed(
                f"{_upper(what)}: two calls were not refused, and had {float(effects):g} effects.", KEY_IGNORED
            )
        if effects is None and session.difference(one, other):
            return failed(f"{_upper(what)}: two calls were not refused, and got two replies.", KEY_IGNORED)
        if effects is None and not session.differing:
            return unclear(f"{_upper(what)}: the call was not refused.", COUNT)
        return None


class MalformedKey(_BadKey):
    id = "key-malformed"
    title = "keys that are not well-formed"
    passes = (
        "A key with a space at an end, or a quote that is not closed, is refused. If it is taken, it protects its call."
    )

    def keys(self, session: Session) -> Sequence[tuple[str, Metadata, Metadata]]:
        made = (
            ("a space at its end", f"{_key()} "),
            ("a space at its beginning", f" {_key()}"),
            ("an open quote", f'"{_key()}'),
        )
        return [(what, session.key(key), session.key(key)) for what, key in made]


class DoubleKey(_BadKey):
    id = "key-double"
    title = "two different keys in one call"
    passes = (
        "A call with two different keys is refused. If it is taken, a retry with both in the other order is a repeat."
    )

    def keys(self, session: Session) -> Sequence[tuple[str, Metadata, Metadata]]:
        one, other = _key(), _key()
        return [("two different keys", session.key(one, other), session.key(other, one))]


class EmptyKey(_BadKey):
    id = "key-empty"
    title = "an empty key"
    passes = "An empty key is refused."

    def keys(self, session: Session) -> Sequence[tuple[str, Metadata, Metadata]]:
        return [("an empty text", session.key(""), session.key(""))]

    def _taken(
        self, session: Session, what: str, operation: Operation, replies: Sequence[Reply], effects: Fraction | None
    ) -> Outcome | None:
        # Another run, or another client, may have used the empty key already.
        reused = [one for one in replies if session.settings.refused("key-reused", one.code)]
        if reused:
            return failed(f"An empty key was taken as a key that was used before: {reused[0]}.", KEYS_MIXED)
        outcome = super()._taken(session, what, operation, replies, Fraction(1) if effects == 0 else effects)
        if outcome is not None:
            return outcome
        return failed("An empty key was taken as a key, which all clients with an empty key share.", KEYS_MIXED)


class LongKey(_BadKey):
    id = "key-long"
    title = "a key that is too long"
    passes = "A key of 4000 characters is refused. If it is taken, it protects its call, and every character counts."

    def keys(self, session: Session) -> Sequence[tuple[str, Metadata, Metadata]]:
        key = _key().ljust(4000, "x")
        return [("4000 characters", session.key(key), session.key(key))]

    def _taken(
        self, session: Session, what: str, operation: Operation, replies: Sequence[Reply], effects: Fraction | None
    ) -> Outcome | None:
        outcome = super()._taken(session, what, operation, replies, effects)
        if outcome is not None:
            return outcome
        beginning = _key().ljust(3999, "x")
        one, other = session.fresh(), session.fresh()
        answers = [
            session.call(one, key=session.key(f"{beginning}1")),
            session.call(other, key=session.key(f"{beginning}2")),
        ]
        counted = session.effects((one, other))
        session.rebase()
        if not answers[1].ok or (counted is not None and counted.total < 2):
            return failed(f"{_upper(what)}: two keys that differ in the last character were taken for one.", KEYS_MIXED)
        return None


class CaseOfKey(Probe):
    id = "key-case"
    title = "two keys that differ in case"
    passes = "Keys that differ only in upper and lower case are two keys, or such keys are refused."

    def run(self, session: Session) -> Outcome:
        key = f"Check-{_key()}"
        operations = [session.under(session.fresh(), one) for one in (key, key.swapcase())]
        one, other = (session.answer(operation) for operation in operations)
        effects = session.effects(operations)
        if session.settings.refused("key-invalid", one.code) and (effects is None or effects.total == 0):
            return passed(f"A key that is no UUID was refused: {one.code}.")
        if not one.ok:
            return unclear(f"A key that is no UUID got {one}.", "Look at the server's log.")
        if not other.ok:
            return failed(f"The second key was taken for the first: {other}.", KEYS_MIXED)
        if effects is not None and effects.total < 2:
            return failed("Two calls with two keys had one effect.", KEYS_MIXED)
        if effects is None and not session.differing:
            return unclear("Two calls with two keys got equal replies.", COUNT)
        if effects is None and not session.difference(one, other):
            return failed("The second call got the reply to the first.", KEYS_MIXED)
        return passed("Two keys that differ in case are two keys.")


class NoKey(Probe):
    id = "no-key"
    title = "calls without a key"
    passes = "A call without a key is refused, or it takes effect each time."

    def run(self, session: Session) -> Outcome:
        operation = session.under(session.fresh(), "")
        replies = [session.call(operation, key=()) for _ in range(2)]
        effects = session.effects((operation,))
        if all(session.settings.refused("key-required", reply.code) for reply in replies):
            if effects is not None and effects.total > 0:
                return failed("A call without a key was refused, but it took effect.", KEY_IGNORED)
            return passed(f"A call without a key was refused: {replies[0].code}.")
        if not replies[0].ok:
            return unclear(
                f"A call without a key got {replies[0]}.",
                f"If that is the refusal: --refusal key-required={replies[0].code}.",
            )
        if not replies[1].ok:
            return passed(f"A call without a key ran each time. The second got {replies[1]}.")
        if effects is not None:
            if effects.total < 2:
                return failed(f"Two calls without a key had {float(effects.total):g} effects.", UNKEYED_SWALLOWED)
            return passed("Two calls without a key took effect twice, as two calls.")
        if not session.differing:
            return unclear("Two calls without a key succeeded.", COUNT)
        if session.difference(*replies):
            return passed("Two calls without a key got replies of their own.")
        return failed("Two calls without a key got one reply.", UNKEYED_SWALLOWED)
