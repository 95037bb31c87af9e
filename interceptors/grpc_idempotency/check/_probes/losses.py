"""Calls whose reply is lost: the client goes away, the deadline passes, or the connection breaks."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from json import dumps

from grpc_idempotency.check._judgement import judged
from grpc_idempotency.check._outcomes import Outcome, unclear
from grpc_idempotency.check._probes.base import Probe
from grpc_idempotency.check._relay import Relay, relayed
from grpc_idempotency.check._session import Session, Trial
from grpc_idempotency.check._settings import Settings
from grpc_idempotency.check._target import Target, workers
from grpc_idempotency.check._templates import Operation

_LANES = 8
_LONG = 0.25
"""Seconds of latency from which on trials are made side by side, since their instants need not be that exact."""
_FURTHEST = 1.3
"""Where a sweep ends, as a multiple of the latency."""
_LOST = 4
"""How many replies are lost after they came, which needs no luck."""

Cut = Callable[[Operation, float], bool]
"""Makes a call and cuts it short after some seconds. Returns True if it was still running then."""


Cuts = list[tuple[Trial, bool]]
"""Trials, each with whether its call was still running when it was cut."""


def _tried(session: Session, cut: Cut, instant: float, note: str) -> tuple[Trial, bool]:
    operation = session.fresh()
    running = cut(operation, instant)
    return Trial(operation=operation, replies=[session.answer(operation)], note=note), running


def _swept(session: Session, cut: Cut, instants: Sequence[float], lanes: int, note: str = "") -> Cuts:
    """Makes a trial for each instant, some of them side by side."""
    with workers(session.target, lanes) as pool:
        return [
            *pool.map(lambda instant: _tried(session, cut, instant, note or f"at {1000 * instant:.1f} ms"), instants)
        ]


def _lanes(session: Session) -> int:
    return _LANES if session.latency > _LONG else 1


def _concluded(session: Session, what: str, cuts: Cuts) -> Outcome:
    trials = [trial for trial, _ in cuts]
    if not any(running for _, running in cuts):
        return unclear(
            f"{len(trials)} calls {what}, but each had ended by then.",
            "Probe a method that takes longer, or a busy server.",
        )
    for trial in trials:  # only now, so that a server that keeps too few outcomes has forgotten it
        trial.replies.append(session.answer(trial.operation))
    return judged(session, f"{len(trials)} calls {what}, and were repeated", trials, late=True)


class LostReply(Probe):
    id = "lost-reply"
    title = "the client goes away in the call"
    passes = (
        "Calls are cancelled at instants spread over 0 to 1.3 times the latency of a call, and repeated at once, and "
        "again after all the others. Each takes effect once, and both retries get one reply."
    )

    def calls(self, settings: Settings) -> int:
        return 3 * settings.trials

    def run(self, session: Session) -> Outcome:
        def cancelled(operation: Operation, seconds: float) -> bool:
            call = session.start(operation)
            time.sleep(seconds)
            running = not call.ended
            call.cancel()
            call.reply()
            return running

        instants = session.instants(session.settings.trials, _FURTHEST)
        return _concluded(session, "were cancelled", _swept(session, cancelled, instants, _lanes(session)))


class Deadline(Probe):
    id = "deadline"
    title = "the deadline passes in the call"
    passes = "As `lost-reply`, but the calls end by deadlines of 0.1 to 1.1 times the latency."

    def calls(self, settings: Settings) -> int:
        return 3 * _share(settings)

    def run(self, session: Session) -> Outcome:
        def limited(operation: Operation, seconds: float) -> bool:
            return session.call(operation, timeout=seconds).code == "DEADLINE_EXCEEDED"

        instants = [one + 0.1 * session.latency for one in session.instants(_share(session.settings), 1.0)]
        return _concluded(session, "ran into their deadline", _swept(session, limited, instants, _lanes(session)))


class CutConnection(Probe):
    id = "cut"
    title = "the connection breaks in the call"
    passes = (
        "A relay breaks the connection at instants spread over 0 to 1.1 times the latency, and when the whole reply "
        "has reached it. Retries come over another connection. Each call takes effect once, and gets one reply."
    )

    def calls(self, settings: Settings) -> int:
        return 3 * (_share(settings) + _LOST)

    def run(self, session: Session) -> Outcome:
        # Each call has a relay of its own, since cutting a relay cuts all of its connections.
        def relay() -> AbstractContextManager[Relay]:
            return relayed(session.target.address, session.settings.tls)

        def cut(operation: Operation, seconds: float) -> bool:
            with relay() as link, _through(link, session) as target:
                call = session.start(operation, target=target)
                time.sleep(seconds)
                running = not call.ended
                link.cut()
                call.reply()
            return running

        def lost(operation: Operation, _seconds: float) -> bool:
            with relay() as link, _through(link, session) as target:
                link.lose_a_reply()
                return not session.call(operation, target=target).ok

        lanes = _lanes(session)
        cuts = _swept(session, cut, session.instants(_share(session.settings), 1.1), lanes)
        cuts += _swept(session, lost, [session.latency] * _LOST, lanes, "its whole reply was lost")
        return _concluded(session, "lost their connection", cuts)


class RetryPolicy(Probe):
    id = "retry-policy"
    title = "gRPC's own retryPolicy repeats the call"
    passes = (
        "The reply is lost with its connection, and a channel with a standard `retryPolicy` for UNAVAILABLE sends the "
        "call again by itself. It ends with OK and one effect."
    )

    def calls(self, settings: Settings) -> int:
        return 3 * _LOST

    def run(self, session: Session) -> Outcome:
        policy = {
            "maxAttempts": 5,
            "initialBackoff": "0.05s",
            "maxBackoff": "1s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        config = dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})
        options = (("grpc.enable_retries", 1), ("grpc.service_config", config))
        trials = []
        with relayed(session.target.address, session.settings.tls) as relay:
            for _ in range(_LOST):
                operation = session.fresh()
                with _through(relay, session, options) as target:
                    relay.lose_a_reply()
                    reply = session.call(operation, target=target)
                    if not relay.lost.is_set():
                        return unclear(
                            f"The reply could not be lost: the call got {reply}.", "Look at the server's log."
                        )
                replies = [reply, session.answer(operation)] if reply.ok else [reply]
                trials.append(Trial(operation=operation, replies=replies))
        return judged(session, f"gRPC repeated {len(trials)} calls whose reply was lost", trials, late=True)


def _share(settings: Settings) -> int:
    """Returns how many instants the sweeps try that cost more than a cancelled call."""
    return max(settings.trials * 2 // 5, 1)


def _through(relay: Relay, session: Session, options: Sequence[tuple[str, object]] = ()) -> Target:
    """Returns a connection through a relay that is open. The relay encrypts where the server wants it."""
    address = session.target.address
    target = Target(relay.address, authority="" if address.startswith("unix:") else address, options=options)
    target.ready(session.settings.timeout)
    return target
