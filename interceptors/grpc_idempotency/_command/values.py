"""Records, steps and notes as JSON objects. docs/reference/command.md lists their fields; they are all always there."""

from typing import Any

from grpc_idempotency._command.text import iso
from grpc_idempotency.records import Note, Record, State, Step

_UNDER_LEASE = (State.RUNNING, State.UNDOING, State.WAITING)


def of_record(record: Record) -> dict[str, Any]:
    """Returns an operation without its bodies, steps and notes."""
    outcome, failure = record.outcome, record.failure
    return {
        "operation": record.name.hex(),
        "state": record.state.value,
        "method": record.method,
        "effects": record.effects.value,
        "streams": record.streams,
        "fence": record.fence.hex(),
        "owner": record.owner or None,
        "attempts": record.attempts,
        "failed_runs": record.failed_runs,
        "failed_undos": record.failed_undos,
        "lapsed": record.lapsed if record.state in _UNDER_LEASE else None,
        "reason": record.reason or None,
        "created": iso(record.created_at),
        "completed": iso(record.completed_at),
        "expires": iso(record.expires_at),
        "status": outcome and outcome.status.name,
        "details": outcome and outcome.details,
        "message_bytes": None if outcome is None or outcome.message is None else len(outcome.message),
        "resolved": record.resolved,
        "failure": failure and failure.status.name,
        "failure_details": failure and failure.details,
        "traceparent": traceparent(record.trace),
    }


def of_step(step: Step) -> dict[str, Any]:
    """Returns a step without its result."""
    return {"step": step.name, "undoable": step.undoable, "recorded": iso(step.recorded_at)}


def of_note(note: Note) -> dict[str, Any]:
    """Returns what an operator did."""
    return {"at": iso(note.at), "by": note.by, "action": note.action, "reason": note.reason}


def traceparent(trace: bytes) -> str | None:
    """Returns a trace context as the header of W3C Trace Context writes it."""
    return f"00-{trace[:16].hex()}-{trace[16:24].hex()}-{trace[24:].hex()}" if trace else None


def why(record: Record) -> str:
    """Returns the most important fact about an operation's state."""
    if record.outcome is not None:
        return record.outcome.status.name
    if record.state in (State.RUNNING, State.UNDOING) and record.lapsed:
        return "its server is gone"
    if record.state is not State.HELD and record.failure is not None:
        return f"failed with {record.failure.status.name}"
    if record.state is State.WAITING and record.lapsed:
        return "due: its next call or a server's recovery runs it"
    return record.reason
