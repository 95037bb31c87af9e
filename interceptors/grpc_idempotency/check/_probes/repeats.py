"""Duplicates of a call that nothing has disturbed."""

import time
from contextlib import ExitStack
from dataclasses import replace

from grpc_idempotency.check._judgement import judged
from grpc_idempotency.check._outcomes import REUSE_EXECUTED, REUSE_SWALLOWED, Outcome, failed, passed, unclear
from grpc_idempotency.check._probes.base import Probe
from grpc_idempotency.check._results import Verdict
from grpc_idempotency.check._session import Session, Trial
from grpc_idempotency.check._settings import Settings
from grpc_idempotency.check._target import Target
from grpc_idempotency.check._templates import Operation, Template

_ROUNDS = 5
_CONNECTIONS = 4
_WHILE_RUNNING = (0.25, 0.5, 0.75)
"""After which parts of the latency another request comes while the first one runs."""


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
    passes = (
        "The second request is refused as a reuse of the key, and has no effect: after the first reply, and while the "
        "first call runs. Of a stream, the last message alone is another one."
    )
    needs = "a request with `{{uuid}}` or `{{marker}}`, or `--other-body`"

    def calls(self, settings: Settings) -> int:
        return 2 + 2 * len(_WHILE_RUNNING)

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
        outcome = self._afterwards(session, template)
        return outcome if outcome.verdict is not Verdict.PASSED else self._meanwhile(session, template, outcome)

    def _afterwards(self, session: Session, template: Template) -> Outcome:
        session.rebase()
        first, second = self._two(session, template)
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

    def _meanwhile(self, session: Session, template: Template, afterwards: Outcome) -> Outcome:
        session.rebase()
        pairs, replies = [], []
        for share in _WHILE_RUNNING:
            first, second = self._two(session, template)
            call = session.start(first)
            time.sleep(share * session.latency)
            reused, told = session.answer(second), call.reply()
            pairs += [first, second]
            replies.append((session.answer(first) if session.comes_again(told) else told, reused))
        effects = session.effects(pairs, late=True)
        if effects is not None and effects.total > len(replies):
            return failed("Two different requests with one key ran at once, and both took effect.", REUSE_EXECUTED)
        for told, reused in replies:
            if told.ok and reused.ok:
                if session.difference(told, reused):
                    return failed("While the first call ran, the second got a reply of its own.", REUSE_EXECUTED)
                return failed("While the first call ran, the second got the reply to the first.", REUSE_SWALLOWED)
            # The second may have come first.
            wrong = reused if told.ok else told
            if not session.settings.refused("key-reused", wrong.code):
                return unclear(
                    f"While the first call ran, one of the two got {wrong}.",
                    f"If that is the refusal: --refusal key-reused={wrong.code}.",
                )
        return afterwards

    def _two(self, session: Session, template: Template) -> tuple[Operation, Operation]:
        """Returns two operations with one key, and different requests."""
        first = session.fresh()
        second = session.under(session.fresh(template), first.key)
        if template is session.template:
            second = replace(second, requests=(*first.requests[:-1], second.requests[-1]))
        return first, second
