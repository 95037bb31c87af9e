"""The judgement on trials that all must end with one effect and one reply."""

from collections.abc import Sequence
from fractions import Fraction

from grpc_idempotency.check._outcomes import DIFFERS, LOST, TWICE, UNANSWERED, Outcome, failed, passed, unclear
from grpc_idempotency.check._session import Session, Trial

COUNT = "Give a way to count effects: --count METHOD --count-path FIELD."
"""The advice where only counted effects can tell."""
BY_MARKER = "Count each call by itself: a list whose elements have the {{marker}}, or a --count-request with it."
"""The advice where effects that are only counted in sum can't tell."""
_NEW_KEY = "If that is meant, clients must use a new key after it. Then the probe is one for --known-failing."
_MOST_TOLD = 4


def judged(
    session: Session,
    story: str,
    trials: Sequence[Trial],
    *,
    late: bool = False,
    replies_prove: bool = False,
    may_be_held: bool = False,
) -> Outcome:
    """Judges trials.

    Args:
        session: The session in which they were made.
        story: What was done in them, as the beginning of a sentence: "40 calls were cancelled, and were repeated".
        trials: The trials. The last reply of each is the final one.
        late: True if calls were cut short, so that an effect may still come.
        replies_prove: True if equal replies mean that the handler ran once, because fresh calls differ.
        may_be_held: True if the server may say that nobody knows the outcome, if there is no second effect.
    """
    held = [one for one in trials if may_be_held and session.settings.refused("outcome-unknown", one.replies[-1].code)]
    answered = [one for one in trials if one.replies[-1].ok]
    effects = session.effects([one.operation for one in trials], late=late)
    if effects is not None and effects.each is not None:
        twice = [one for one in trials if effects.each[one.operation.marker] > 1]
        if twice:
            return failed(
                f"{story}: {_times(max(effects.each.values()), len(twice), len(trials))}{_noted(twice)}.", TWICE
            )
        lost = [one for one in answered if effects.each[one.operation.marker] < 1]
        if lost:
            return failed(f"{story}: {len(lost)} of {len(answered)} that succeeded had no effect{_noted(lost)}.", LOST)
    elif effects is not None:
        if effects.total > len(trials):
            return failed(f"{story}: {len(trials)} calls had {float(effects.total):g} effects.", TWICE)
        if effects.total < len(answered):
            return failed(f"{story}: {len(answered)} that succeeded had {float(effects.total):g} effects.", LOST)
    for trial in trials:
        final = [reply for reply in trial.replies if not session.comes_again(reply)]
        for other in final[1:]:
            if how := session.difference(final[0], other):
                return failed(f"{story}: a retry got another reply{_noted([trial])}: {how}.", DIFFERS)
    wrong = [one for one in trials if one not in answered and one not in held]
    if wrong:
        last = wrong[0].replies[-1]
        told = f"{story}: {len(wrong)} of {len(trials)} never got the reply{_noted(wrong)}, but {last}."
        if session.comes_again(last):
            return unclear(told, f"Give it longer than {session.settings.timeout:g} seconds with --timeout.")
        if (
            effects is not None
            and effects.each is not None
            and not any(effects.each[one.operation.marker] for one in wrong)
        ):
            return unclear(f"{told} They had no effect.", _NEW_KEY)
        return failed(told, UNANSWERED)
    kept = f" {len(held)} of them were held, as the server says, and need an operator." if held else ""
    if effects is not None and effects.each is None and held and effects.total > len(answered):
        # One of those that were held took effect, or another one did so twice.
        return unclear(
            f"{story}:{kept} {len(answered)} others had {float(effects.total):g} effects with them.", BY_MARKER
        )
    each = "each" if len(trials) > 1 else "it"
    if effects is not None:
        once = "at most once" if held else "once"
        return passed(f"{story}: {each} took effect {once}, and got one reply.{kept}")
    if replies_prove and session.differing:
        return passed(f"{story}: {each} got one reply, where fresh calls get different ones.{kept}")
    if session.differing:
        return unclear(f"{story}: {each} got one reply, but the handler may have run more than once.{kept}", COUNT)
    return unclear(f"{story}: {each} got one reply, but fresh calls do not differ either.{kept}", COUNT)


def _times(most: Fraction, some: int, every: int) -> str:
    times = "twice" if most == 2 else f"{float(most):g} times"
    if every == 1:
        return f"it took effect {times}"
    return f"{some} of {every} took effect {times if most == 2 else f'up to {times}'}"


def _noted(trials: Sequence[Trial]) -> str:
    notes = [one.note for one in trials if one.note]
    if not notes:
        return ""
    more = f" and {len(notes) - _MOST_TOLD} more" if len(notes) > _MOST_TOLD else ""
    return f" ({', '.join(notes[:_MOST_TOLD])}{more})"
