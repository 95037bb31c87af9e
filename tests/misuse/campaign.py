"""Handlers that misbehave, on stores that fail: a campaign that composes them at random and checks what is promised.

It plays cases against the servers, then compares what clients were told with what the ledger and the files hold.
``make misuse CASES=20000`` runs it; ``test_misuse.py`` is a short setting of it.
"""

import sqlite3
import tempfile
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from grpc_idempotency import Code, Record, SQLiteStore, State
from grpc_idempotency._server.context import INTERNAL_ERROR
from grpc_idempotency._wire.key import digest_name
from grpc_idempotency.principals import SHARED
from grpc_idempotency.stores._sqlite import nesting

from .grammar import LONG, Attempt, Case, Op, case, flat
from .ledger import Ledger
from .rig import HOWS_OF, Served
from .stores import BUSY, Faults, Locker, made

AT_ONCE = 48
"""How many cases are played at one time."""
_TRIES = 40
_RELEASED = 4
"""After how many runs that released their operation a case is over."""
_PAUSE = 0.15


class Heard(NamedTuple):
    """What a client was answered."""

    code: str
    details: str
    messages: tuple[bytes, ...]
    trailers: tuple[tuple[str, str | bytes], ...]
    mark: str
    """The trailer ``idempotency-status``; empty where none came."""
    patient: bool
    """Whether the client had time for any answer, and did not go away."""

    @property
    def told(self) -> tuple[Any, ...]:
        """What has to be the same in every answer of an operation."""
        return self.code, self.details, self.messages, self.trailers


class Finding(NamedTuple):
    """A promise that was broken."""

    case: Case | None
    promise: str
    seen: str


@dataclass(slots=True)
class Report:
    """What came of a campaign."""

    cases: int = 0
    calls: int = 0
    runs: int = 0
    faults: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)


def run(seeds: Sequence[int], *, fault_rate: float = 0.04, progress: Callable[[int], None] = lambda _: None) -> Report:
    """Plays the cases of these seeds, and judges them."""
    report = Report(cases=len(seeds))
    cases = {one.key: one for one in map(case, seeds)}
    ledger, heard = Ledger(), defaultdict[str, list[Heard]](list)
    with tempfile.TemporaryDirectory() as folder:
        faults = Faults(seeds[0], fault_rate)
        servers = [Served(kind, made(Path(folder) / f"{kind}.db"), cases, ledger, faults) for kind in HOWS_OF]
        server_of = {how: server for server in servers for how in server.hows}
        lockers = [Locker(server.path, seeds[0]) for server in servers]
        with lockers[0], lockers[1], ThreadPoolExecutor(AT_ONCE) as pool, ThreadPoolExecutor(AT_ONCE * 4) as calls:
            channels = {server.target: grpc.insecure_channel(server.target) for server in servers}
            played = [
                pool.submit(play, one, channels[server_of[one.how].target], calls, heard[one.key])
                for one in cases.values()
            ]
            for number, done in enumerate(played, 1):
                done.result()
                progress(number)
            for channel in channels.values():
                channel.close()
        ledger.join(6)
        for server in servers:
            server.stop()
        report.findings += [Finding(None, "no thread is left over", name) for name in wait_for_threads()]
        for server in servers:
            report.findings += [Finding(None, "no task is left over", one) for one in server.left]
            mine = [one for one in cases.values() if server_of[one.how] is server]
            report.findings += judge_all(mine, server.path, heard, ledger, report)
    report.calls = sum(map(len, heard.values()))
    report.runs = sum(ledger.runs.values())
    report.faults = faults.injected
    return report


def wait_for_threads() -> list[str]:
    """Returns the library's threads that are left, and where they are; what handlers do may take a moment to end."""
    end = time.monotonic() + 15
    while (left := ours()) and time.monotonic() < end:
        for thread in left:
            thread.join(0.05)
    return [f"{one.name}: {_at(one)}" for one in left]


def ours() -> list[threading.Thread]:
    """Returns the library's threads."""
    return [one for one in threading.enumerate() if one.name.startswith("grpc-idempotency")]


def _at(thread: threading.Thread) -> str:
    """Returns where a thread is, the innermost call first."""
    frame = nesting._frames().get(thread.ident or 0)
    calls = reversed(traceback.extract_stack(frame)) if frame is not None else ()
    return " < ".join(f"{call.name} {Path(call.filename).name}:{call.lineno}" for call in calls)


# The client


def play(one: Case, channel: grpc.Channel, calls: ThreadPoolExecutor, heard: list[Heard]) -> None:
    """Makes the calls of a case, and then more until its outcome is known."""
    made_at = time.monotonic()

    def attempt(given: Attempt) -> Heard:
        time.sleep(max(0.0, made_at + given.after - time.monotonic()))
        return call(one, channel, given)

    heard += calls.map(attempt, one.attempts)
    released_runs = 0
    for _ in range(_TRIES):
        answer = call(one, channel, Attempt(0.0, LONG, None))
        heard.append(answer)
        if answer.mark == "replayed" or reason(answer) in ("OUTCOME_UNKNOWN", "RESPONSE_NOT_RETAINED"):
            return
        released_runs += answer.mark == "executed" and released(one, answer)
        if released_runs == _RELEASED:
            return  # it would go on like that
        time.sleep(_PAUSE if answer.code == "UNAVAILABLE" else 0.0)


def call(one: Case, channel: grpc.Channel, attempt: Attempt) -> Heard:
    """Makes one call."""
    request = b"\n" + bytes([len(one.key)]) + one.key.encode()
    make: Any = channel.unary_stream(one.method) if one.streams else channel.unary_unary(one.method)
    options = {"metadata": (("idempotency-key", one.key),), "timeout": attempt.timeout}
    patient = attempt.cancel is None and attempt.timeout == LONG
    messages: tuple[bytes, ...] = ()
    calling = make(request, **options) if one.streams else make.future(request, **options)
    timer = None
    if attempt.cancel is not None:
        timer = threading.Timer(attempt.cancel, calling.cancel)
        timer.start()
    got = []
    try:
        if one.streams:
            for message in calling:
                got.append(message)
        else:
            got.append(calling.result())
    except (grpc.RpcError, grpc.FutureCancelledError):
        pass
    finally:
        if timer is not None:
            timer.cancel()
    messages = tuple(got)
    trailers = tuple((key, value) for key, value in calling.trailing_metadata() or ())
    mark = next((str(value) for key, value in trailers if key == "idempotency-status"), "")
    theirs = tuple(entry for entry in trailers if not entry[0].startswith("idempotency-"))
    return Heard(calling.code().name, calling.details() or "", messages, theirs, mark, patient)


def reason(answer: Heard) -> str:
    """Returns the reason of a refusal."""
    packed = next((value for key, value in answer.trailers if key == "grpc-status-details-bin"), b"")
    found = [one for one in REASONS if one.encode() in (packed if isinstance(packed, bytes) else b"")]
    return found[0] if answer.mark == "refused" and found else ""


REASONS = ("OUTCOME_UNKNOWN", "RESPONSE_NOT_RETAINED", "STORE_UNAVAILABLE", "IN_FLIGHT", "KEY_REUSED")


# The judge


def judge_all(
    cases: Iterable[Case], path: Path, heard: dict[str, list[Heard]], ledger: Ledger, report: Report
) -> list[Finding]:
    """Returns what was broken among the cases of one server."""
    rows: dict[str, Counter[tuple[str, int]]] = defaultdict(Counter)
    with closing(sqlite3.connect(path)) as db:
        for key, what, number in db.execute("SELECT key, what, run FROM effects"):
            rows[key][what, number] += 1
    findings = []
    store = SQLiteStore(path, busy_timeout=BUSY)  # as the server's: a handler that runs on may have opened it again
    try:
        for one in cases:
            record = store.get(digest_name(SHARED, one.method, one.key, None))
            report.states[record.state.value if record is not None else "absent"] += 1
            report.codes.update(answer.code for answer in heard[one.key])
            findings += [Finding(one, *found) for found in judge(one, record, rows[one.key], heard[one.key], ledger)]
    finally:
        store.close()
    return findings


def judge(
    one: Case, record: Record | None, rows: Counter[tuple[str, int]], heard: list[Heard], ledger: Ledger
) -> Iterable[tuple[str, str]]:
    """Yields the promises that were broken, and what was seen."""
    state = record.state if record is not None else None
    outcome = record.outcome if record is not None else None
    seen = f"{state and state.value} {outcome and outcome.status.name}, rows {dict(rows)}, runs {ledger.runs[one.key]}"

    # Answers
    for answer in heard:
        if answer.patient and not answer.mark:
            yield "every keyed call is answered, and by us (2.2, 4.4)", f"{answer}; {seen}"
        if "secret" in answer.details:
            yield "an exception's text never leaves the server (4.7)", f"{answer}"
    stored = {answer.told for answer in heard if answer.mark == "replayed" and answer.patient}
    if len(stored) > 1:
        yield "all replays of a key are equal (4.7)", f"{stored}; {seen}"
    for answer in heard:
        final = answer.mark in ("executed", "attached") and answer.patient and not released(one, answer)
        if stored and final and answer.told not in stored:
            yield "the first answer is the one that is replayed (4.7)", f"{answer}, replayed {stored}; {seen}"

    # Settled
    if state is State.WAITING or (state in (State.RUNNING, State.UNDOING) and not may_be_abandoned(one)):
        yield "an operation comes to its end (4.4, 5.2)", seen
    if state is None and not any(released(one, answer) or answer.mark == "refused" for answer in heard):
        yield "an operation that was not released is there (4.5)", f"{heard}; {seen}"

    # Effects
    own = {number: count for (what, number), count in rows.items() if what == "reply"}
    if len(own) > 1:
        yield "at most one transaction of an operation commits (5.1)", seen
    if any(count != 2 for count in own.values()):
        yield "a transaction's rows are kept together (5.1)", seen
    if own and not (outcome is not None and outcome.status is Code.OK):
        yield "rows and outcome commit together (5.1)", seen
    ends = one.program[-1].what
    if not own and outcome is not None and outcome.status is Code.OK and ends == "transact":
        yield "a reply of a transaction has its rows (5.1)", seen
    transacts = one.has("transact", "transact in timeout", "transact twice", "read", "nested")
    if one.effects == "opaque" and not transacts and len(set(ledger.effects[one.key])) > 1:
        yield "an opaque handler has its effects at most once (4.5)", f"{ledger.effects[one.key]}; {seen}"
    if ledger.most_inside[one.key] > 1 and not may_overlap(one):
        yield "at most one execution at a time (4.1)", f"{ledger.most_inside[one.key]} at once; {seen}"

    # Steps
    for (what, _), count in rows.items():
        kept = sum(rows[other] for other in rows if other[0] == what)
        if what.startswith(("step:", "undo:")) and kept > 1:
            yield "a step is kept once, with its rows (5.2)", f"{what} {count}; {seen}"
    done = {what[5:] for what, _ in rows if what.startswith("step:")}
    undone = {what[5:] for what, _ in rows if what.startswith("undo:")}
    if undone - done:
        yield "only what was done is undone (5.2)", seen
    if done and state is None:
        yield "an operation with finished steps is never released (5.2)", seen
    undoable = {step.arguments[0] for step in all_steps(one) if step.arguments[1] and step.arguments[2]}
    if outcome is not None and outcome.status is not Code.OK and (done & undoable) - undone:
        yield "a failure is stored once its steps are undone (5.2)", seen
    if outcome is not None and outcome.status is Code.OK and undone:
        yield "what succeeds is not undone (5.2)", seen


def released(one: Case, answer: Heard) -> bool:
    """Returns whether the answer says that the operation is to run again (4.5, 4.6)."""
    if answer.mark == "refused":
        return True
    if one.effects != "opaque" and answer.details == INTERNAL_ERROR:
        return True  # the handler raised, whatever code it had set before
    passing = {"UNAVAILABLE", "ABORTED", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED", "PERMISSION_DENIED"}
    unclear = {"UNKNOWN", "INTERNAL", "DEADLINE_EXCEEDED", "CANCELLED"}
    return answer.code in (passing if one.effects == "opaque" else passing | unclear)


def may_be_abandoned(one: Case) -> bool:
    """Returns whether its handler may run on past its limit, so that only its lease's end lets another run begin."""
    return one.has("overrun", "ignore cancellation", "nested")


def may_overlap(one: Case) -> bool:
    """Returns whether a run may begin beside one that nobody could stop (4.5): never under ``opaque``."""
    return one.effects != "opaque" and may_be_abandoned(one)


def all_steps(one: Case) -> list[Op]:
    """Returns the steps of a program, at any depth."""
    return [op for op in flat(one.program) if op.what == "step"]
