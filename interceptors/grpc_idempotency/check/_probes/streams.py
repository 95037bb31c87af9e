"""Streams that break off."""

import threading
from collections.abc import Sequence
from dataclasses import replace

from grpc_idempotency.check._judgement import judged
from grpc_idempotency.check._outcomes import DIFFERS, TRUNCATED, Outcome, failed, passed, unclear
from grpc_idempotency.check._probes.base import Probe
from grpc_idempotency.check._replies import Reply
from grpc_idempotency.check._results import Verdict
from grpc_idempotency.check._session import Session, Trial
from grpc_idempotency.check._settings import Settings

_TRIALS = 5


class ReplyStream(Probe):
    id = "reply-stream"
    title = "the client leaves a stream of replies"
    passes = (
        "The client cancels after the first message of the reply, and repeats the call. It gets the whole stream, from "
        "its first message on, and there is one effect."
    )
    needs = "a method that answers with a stream of two messages or more"

    def skips(self, session: Session) -> str:
        return "" if session.method.gives_stream else "The method does not answer with a stream."

    def calls(self, settings: Settings) -> int:
        return 3 * _TRIALS

    def run(self, session: Session) -> Outcome:
        lengths = [len(session.answer(session.fresh()).messages) for _ in range(2)]
        if min(lengths) < 2:
            return unclear(f"The stream has {min(lengths)} messages.", "Give a request whose reply has two or more.")
        session.rebase()
        trials, left = [], []
        for _ in range(_TRIALS):
            operation = session.fresh()
            call = session.start(operation)
            call.read()
            call.cancel()
            left.append(call.reply())
            replies = [session.answer(operation), session.answer(operation)]
            trials.append(Trial(operation=operation, replies=replies))
        story = f"{_TRIALS} streams were left after their first message"
        outcome = judged(session, story, trials, late=True)
        if outcome.verdict is not Verdict.FAILED:
            for trial, part in zip(trials, left, strict=True):
                if how := _incomplete(session, trial.replies[0], part, lengths):
                    return failed(f"{story}: {how}.", DIFFERS)
        return outcome


def _incomplete(session: Session, told: Reply, left: Reply, lengths: Sequence[int]) -> str:
    """Returns what a retry's stream lacks of the stream that the client left; empty if it lacks nothing."""
    if not told.ok:
        return ""
    if len(set(lengths)) == 1 and len(told.messages) < lengths[0]:
        return f"a retry got {len(told.messages)} messages, where a stream has {lengths[0]}"
    begun = replace(told, messages=told.messages[: len(left.messages)])
    return session.difference(replace(told, messages=left.messages), begun)


class RequestStream(Probe):
    id = "request-stream"
    title = "a stream of requests breaks off"
    passes = (
        "The client cancels before it has sent its last message, and repeats the whole call. There is one effect: "
        "nothing of the part took effect."
    )
    needs = "a method that takes a stream, and two messages"

    def skips(self, session: Session) -> str:
        if not session.method.takes_stream:
            return "The method does not take a stream."
        return "" if len(session.settings.requests) > 1 else "The stream has one message only: --request, twice."

    def calls(self, settings: Settings) -> int:
        return 3 * _TRIALS

    def run(self, session: Session) -> Outcome:
        trials = []
        for _ in range(_TRIALS):
            operation = session.fresh()
            sent = threading.Event()
            part = session.start(operation, broken_off=sent)
            sent.wait(session.settings.timeout)
            part.cancel()
            part.reply()
            trials.append(Trial(operation=operation))
        effects = session.effects([trial.operation for trial in trials], late=True)
        if effects is not None and effects.total > 0:
            return failed(f"{_TRIALS} streams broke off before their last message, and a part took effect.", TRUNCATED)
        for trial in trials:
            trial.replies += [session.answer(trial.operation), session.answer(trial.operation)]
        return judged(session, f"{_TRIALS} streams broke off, and were sent again", trials, late=True)


class BothStreams(Probe):
    id = "both-streams"
    title = "a bidirectional stream with a key"
    passes = "It is refused with a key, or it is as safe to retry as other calls."
    needs = "a bidirectional method"

    def skips(self, session: Session) -> str:
        both = session.method.takes_stream and session.method.gives_stream
        return "" if both else "The method is not bidirectional."

    def run(self, session: Session) -> Outcome:
        operation = session.fresh()
        first = session.call(operation)
        if session.settings.refused("streaming-unsupported", first.code):
            effects = session.effects((operation,))
            if effects is not None and effects.total > 0:
                return failed(f"The call was refused with {first.code}, but it took effect.", TRUNCATED)
            return passed(f"With a key it is refused: {first.code}.")
        trial = Trial(operation=operation, replies=[first, session.answer(operation)])
        return judged(session, "A bidirectional call was repeated", [trial], replies_prove=True)
