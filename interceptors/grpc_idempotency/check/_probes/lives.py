"""Probes of a server that is restarted or killed, of two servers, and of how long outcomes are kept."""

import subprocess
import tempfile
import time
from threading import Event

from grpc_idempotency.check._judgement import judged
from grpc_idempotency.check._outcomes import Outcome, unclear
from grpc_idempotency.check._probes.base import Probe
from grpc_idempotency.check._results import Unreachable
from grpc_idempotency.check._session import Session, Trial
from grpc_idempotency.check._settings import Settings
from grpc_idempotency.check._target import Target, workers
from grpc_idempotency.check._text import plain

_RETURN = 60.0
"""Seconds in which a server must answer again after it was restarted or killed."""
_KEPT = 3
_CALLERS = 4
_MOST = 4000
"""How many calls are made at most while the command that kills the server runs."""
_LAST = 100
"""How many calls that were answered before it was killed are repeated."""


class Restart(Probe):
    id = "restart"
    title = "the server restarts between call and retry"
    passes = "Calls that were answered before a restart are repeated after it, with one effect and the same reply."
    needs = "`--restart`"

    def skips(self, session: Session) -> str:
        return "" if session.settings.restart else "No command restarts the server: --restart."

    def run(self, session: Session) -> Outcome:
        trials = [Trial(operation=session.fresh()) for _ in range(_KEPT)]
        for trial in trials:
            trial.replies.append(session.answer(trial.operation))
        if trouble := _ran(session, session.settings.restart):
            return trouble
        for trial in trials:
            trial.replies.append(session.answer(trial.operation))
        return judged(session, f"{_KEPT} calls were repeated after a restart", trials, replies_prove=True)


class Kill(Probe):
    id = "kill"
    title = "the server is killed in the call"
    passes = (
        "The server is killed while calls run, and all are repeated once it is back. Each has one effect and one "
        "reply, or is refused as one whose outcome is unknown and has at most one effect."
    )
    needs = "`--kill`"

    def skips(self, session: Session) -> str:
        return "" if session.settings.kill else "No command kills the server: --kill."

    def calls(self, settings: Settings) -> int:
        return _MOST

    def run(self, session: Session) -> Outcome:
        trials: list[Trial] = []
        dead = Event()

        def keep_calling(number: int) -> None:
            # Not in step with the others, so that whenever it is killed, some call is in its middle.
            time.sleep(number * session.latency / _CALLERS)
            while not dead.is_set() and len(trials) < _MOST:
                trial = Trial(operation=session.fresh())
                trials.append(trial)
                reply = session.call(trial.operation)
                if reply.ok:
                    trial.replies.append(reply)
                else:
                    trial.note = f"it got {reply.code}"
                    dead.set()

        with workers(session.target, _CALLERS) as callers:
            calling = [callers.submit(keep_calling, number) for number in range(_CALLERS)]
            trouble = _ran(session, session.settings.kill)
            dead.set()
            for one in calling:
                one.result()
        if trouble:
            return trouble
        cut = [trial for trial in trials if not trial.replies]
        if not cut:
            return unclear("No call was running when the server was killed.", "Probe a method that takes longer.")
        for trial in (*cut, *(one for one in trials[-_LAST:] if one not in cut)):
            trial.replies.append(session.answer(trial.operation))
        story = f"The server was killed, and {len(cut)} calls that it cut short were repeated with others before them"
        return judged(session, story, trials, late=True, may_be_held=True)


class Replica(Probe):
    id = "replica"
    title = "the retry reaches another server"
    passes = "A call is repeated at another server, after its reply and at the same time. It takes effect once."
    needs = "`--replica`"

    def skips(self, session: Session) -> str:
        return "" if session.settings.replica else "No other server is given: --replica."

    def calls(self, settings: Settings) -> int:
        return 8 * _KEPT

    def run(self, session: Session) -> Outcome:
        trials = []
        with Target(session.settings.replica, tls=session.settings.tls) as replica:
            for _ in range(_KEPT):
                operation = session.fresh()
                replies = [session.answer(operation), session.answer(operation, target=replica)]
                trials.append(Trial(operation=operation, replies=replies, note="one after the other"))
            for _ in range(_KEPT):
                operation = session.fresh()
                calls = [session.start(operation), session.start(operation, target=replica)]
                replies = [reply for call in calls if not session.comes_again(reply := call.reply())]
                replies += [session.answer(operation), session.answer(operation, target=replica)]
                trials.append(Trial(operation=operation, replies=replies, note="at the same time"))
        return judged(session, f"{len(trials)} calls were made at two servers", trials, late=True)


class Ttl(Probe):
    id = "ttl"
    title = "the retry comes late"
    passes = "A call is repeated after half of the promised time, and after nine tenths of it. It takes effect once."
    needs = "`--ttl`"

    def skips(self, session: Session) -> str:
        return "" if session.settings.ttl else "How long outcomes are kept is not given: --ttl."

    def run(self, session: Session) -> Outcome:
        operation = session.fresh()
        trial = Trial(operation=operation, replies=[session.answer(operation)])
        answered = time.monotonic()
        for share in (0.5, 0.9):
            time.sleep(max(answered + share * session.settings.ttl - time.monotonic(), 0))
            trial.replies.append(session.answer(operation))
        story = f"A call was repeated until {0.9 * session.settings.ttl:g} seconds after its reply"
        return judged(session, story, [trial], replies_prove=True)


def _ran(session: Session, command: str) -> Outcome | None:
    """Runs a command, and waits until the server answers again. Returns a verdict if one of them fails."""
    with tempfile.TemporaryFile() as output:  # and no pipe, which a server that the command starts would keep open
        try:
            done = subprocess.run(  # noqa: S602  # the user's own command
                command,
                shell=True,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=_RETURN,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return unclear(
                f"The command did not end in {_RETURN:g} seconds: {command}",
                "Let it start the server in the background.",
            )
        if done.returncode:
            output.seek(0)
            said = plain(output.read().decode(errors="replace").strip()[-200:])
            return unclear(f"The command ended with {done.returncode}: {command}: {said}", "Correct the command.")
    try:
        with Target(session.target.address, tls=session.settings.tls) as again:
            again.ready(_RETURN)
        session.target.ready(_RETURN)
    except Unreachable:
        return unclear(
            f"The server did not answer for {_RETURN:g} seconds after: {command}", "Let the command start it again."
        )
    return None
