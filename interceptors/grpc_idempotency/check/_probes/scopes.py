"""What else a key belongs to: a method and a caller."""

from grpc_idempotency.check._judgement import COUNT
from grpc_idempotency.check._outcomes import (
    SHARED_BY_CALLERS,
    SHARED_BY_METHODS,
    Outcome,
    failed,
    passed,
    unclear,
)
from grpc_idempotency.check._probes.base import Probe
from grpc_idempotency.check._session import Session


class OtherMethod(Probe):
    id = "other-method"
    title = "the same key on another method"
    passes = "A call of another method with a used key runs, and gets a reply of its own."
    needs = "`--other-method`"

    def skips(self, session: Session) -> str:
        return "" if session.other else "No other method is given: --other-method."

    def run(self, session: Session) -> Outcome:
        template = session.other
        assert template is not None
        other = template.method
        fresh = session.answer(session.fresh(template), method=other)
        if not fresh.ok:
            return unclear(
                f"A fresh call of {other.name[1:]} gets {fresh}.", "Correct --other-request: it must succeed."
            )
        first = session.fresh()
        told = session.answer(first)
        second = template.operation(first.key, session.markers.fresh())
        reply = session.answer(second, method=other)
        name = other.name[1:]
        if not reply.ok:
            return failed(f"{name} with a key of {session.method.name[1:]} was refused: {reply}.", SHARED_BY_METHODS)
        if reply.messages == told.messages and reply.messages != fresh.messages:
            return failed(f"{name} was answered with the reply of {session.method.name[1:]}.", SHARED_BY_METHODS)
        if reply.messages == told.messages:
            return unclear(
                f"{name} and {session.method.name[1:]} give equal replies.", "Name a method that replies otherwise."
            )
        return passed(f"{name} with the same key got a reply of its own.")


class OtherCaller(Probe):
    id = "other-principal"
    title = "the same key from another caller"
    passes = (
        "The same request with the same key, from another caller, takes effect for that caller. Neither sees the other."
    )
    needs = "`--as` twice"

    def skips(self, session: Session) -> str:
        return "" if len(session.settings.principals) == 2 else "Two callers are not given: --as, twice."

    def run(self, session: Session) -> Outcome:
        one, other = session.settings.principals
        fresh = session.fresh()
        if not (reply := session.answer(fresh, caller=other)).ok:
            return unclear(
                f"A fresh call of the second caller gets {reply}.", "Correct the second --as: it must succeed."
            )
        session.rebase()
        operation = session.fresh()
        replies = [session.answer(operation, caller=caller) for caller in (one, other)]
        effects = session.effects((operation,))
        wrong = next((reply for reply in replies if not reply.ok), None)
        if wrong is not None:
            return failed(f"A call with a key that another caller has used got {wrong}.", SHARED_BY_CALLERS)
        if not session.difference(*replies) and (effects.total < 2 if effects else session.differing):
            return failed("The second caller was answered with the first caller's reply.", SHARED_BY_CALLERS)
        if effects is not None and effects.total < 2:
            return failed("The second caller's call had no effect.", SHARED_BY_CALLERS)
        if effects is None and not session.differing:
            return unclear("Both callers got equal replies, as fresh calls do.", COUNT)
        again = session.answer(operation, caller=one)
        if again.ok and session.differing and not session.difference(again, replies[1]):
            return failed("A retry was answered with the reply to another caller.", SHARED_BY_CALLERS)
        return passed("Two callers used one key: each has an effect and a reply of its own.")
