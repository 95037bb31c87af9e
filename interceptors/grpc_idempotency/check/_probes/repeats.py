"""Duplicates of a call that nothing has disturbed."""

from contextlib import ExitStack

from grpc_idempotency.check._judgement import judged
from grpc_idempotency.check._outcomes import REUSE_EXECUTED, REUSE_SWALLOWED, Outcome, failed, passed, unclear
from grpc_idempotency.check._probes.base import Probe
from grpc_idempotency.check._session import Session, Trial
from grpc_idempotency.check._settings import Settings
from grpc_idempotency.check._target import Target

_ROUNDS = 5
_CONNECTIONS = 4


class Duplicate(Probe):
    id = "duplicate"
    title = "the same call again"
    passes = "A call that is repeated twice takes effect once, and all three replies are the same."

    def run(self, session: Session) -> Outcome:
        operation = session.fresh()
        trial = Trial(operation=operation, replies=[session.answer(operation) for _ in range(3)])
        return judged(session, "A call was repeated twice", [trial], replies_prove=True)


class AtOnce(Probe):
    id = "at-once"
    title = "many duplicates at once"
    passes = (
        "16 duplicates that are sent at once, over four connections, have one effect. Each gets the one reply, or is "
        "told to come again and then gets it."
    )

    def calls(self, settings: Settings) -> int:
        return _ROUNDS * (settings.callers + 1)

    def run(self, session: Session) -> Outcome:
        callers = session.settings.callers
        with ExitStack() as stack:
            targets = [
                stack.enter_context(Target(session.target.address, tls=session.settings.tls))
                for _ in range(_CONNECTIONS)
            ]
            for target in targets:
                target.ready(session.settings.timeout)
            trials = [self._round(session, targets, callers) for _ in range(_ROUNDS)]
        return judged(session, f"{callers} duplicates were sent at once, in {_ROUNDS} rounds", trials, late=True)

    def _round(self, session: Session, targets: list[Target], callers: int) -> Trial:
        operation = session.fresh()
        calls = [session.start(operation, target=targets[n % len(targets)]) for n in range(callers)]
        replies = [reply for call in calls if not session.comes_again(reply := call.reply())]
        return Trial(operation=operation, replies=[*replies, session.answer(operation)])


class OtherBody(Probe):
    id = "other-body"
    title = "a key used again with another request"
    passes = "The second request is refused as a reuse of the key, and has no effect."
    needs = "a request with `{{uuid}}` or `{{marker}}`, or `--other-body`"

    def run(self, session: Session) -> Outcome:
        template = session.other_body
        if template is None and session.template.varies("uuid", "marker"):
            template = session.template
        if template is None:
            return unclear(
                "No other request is known.", "Put {{marker}} into a text of --request, or give --other-body."
            )
        if template is not session.template and not (alone := session.answer(session.fresh(template))).ok:
            return unclear(f"The other request alone gets {alone}.", "Correct --other-body: it must succeed.")
        session.rebase()
        first = session.fresh()
        second = session.under(session.fresh(template), first.key)
        told, reused = session.answer(first), session.answer(second)
        effects = session.effects((first, second))
        if not told.ok:
            return unclear(f"The first call got {told}.", "Look at the server's log.")
        if effects is not None and effects.total > 1:
            return failed(
                f"Two different requests with one key: both took effect, the second got {reused}.", REUSE_EXECUTED
            )
        if session.settings.refused("key-reused", reused.code):
            return passed(f"The second request was refused: {reused.code}.")
        if not reused.ok:
            return unclear(
                f"The second request got {reused}.", f"If that is the refusal: --refusal key-reused={reused.code}."
            )
        if not session.difference(told, reused):
            return failed("The second request was answered with the reply to the first.", REUSE_SWALLOWED)
        return failed("The second request was answered with a reply of its own.", REUSE_EXECUTED)
