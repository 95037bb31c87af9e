"""``show``: one operation and its timeline."""

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from grpc_idempotency._command import bodies, names, stores, values
from grpc_idempotency._command.output import STYLES, Cell, Output
from grpc_idempotency._command.text import age, instant, now
from grpc_idempotency._operation.steps import UNDO
from grpc_idempotency.records import Code, Effects, Note, Record, State, Step

SUMMARY = "show one operation: where it stands, what has happened, and what to do"
EXAMPLES: tuple[tuple[str, str], ...] = (
    ("by a prefix of its name, as ls prints it", "grpc-idempotency show sqlite:///orders.db 5f0c6ba4"),
    (
        "by what its client sent",
        "grpc-idempotency show --principal alice --method /shop.orders.v1.OrderService/CreateOrder --key order-1",
    ),
    (
        "with its response, whose type is asked of a server",
        "grpc-idempotency show sqlite:///orders.db 5f0c6ba4 --body --reflection localhost:50051",
    ),
)

Event = tuple[datetime, Cell | str]
"""When something happened, and what."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    stores.add_argument(parser)
    names.add_arguments(parser)
    bodies.add_arguments(parser)


def run(given: argparse.Namespace, output: Output) -> None:
    """Runs the command."""
    names.settle(given)
    with stores.opened(given, read_only=True) as store, bodies.reader(given) as reader:
        try:
            record = names.found(store, given)
        except names.Absent as exc:
            _tell_absent(exc, store.notes(exc.name), output)
            return
        steps, notes = store.steps(record.name), store.notes(record.name)
        body = reader.of_record(record)
        results = [reader.of_step(step) for step in steps]
    if output.as_json:
        told = values.of_record(record) | body
        told["steps"] = [values.of_step(step) | result for step, result in zip(steps, results, strict=True)]
        output.json(told | {"notes": [values.of_note(note) for note in notes]})
        return
    tell(record, steps, notes, output)
    for step, result in zip(steps, results, strict=True):
        body |= {f"{name} of step {step.name}": value for name, value in result.items()}
    _tell_bodies(body, output)
    for line in _advice(record, "STORE " if given.store else ""):
        output.line(line)


def _tell_absent(absent: names.Absent, notes: Sequence[Note], output: Output) -> None:
    """Prints what operators did to an operation that has no record any more."""
    if not notes:
        raise absent
    if output.as_json:
        told = {"operation": absent.name.hex(), "state": "absent", "notes": [values.of_note(note) for note in notes]}
        output.json(told)
        return
    _tell_facts([("operation", absent.name.hex()), ("state", "absent")], output)
    _tell_events(_noted(notes), output)


def tell(record: Record, steps: Sequence[Step], notes: Sequence[Note], output: Output) -> None:
    """Prints what is known of an operation, and its timeline."""
    _tell_facts(_facts(record), output)
    _tell_events(_happened(record, steps) + _noted(notes), output)
    if record.outcome is None:
        output.line(Cell(f"{'now':20}", "dim"), Cell(_standing(record), STYLES[record.state]))


def _tell_facts(facts: Iterable[tuple[str, Cell | str]], output: Output) -> None:
    for name, value in facts:
        output.line(Cell(f"{name:12}", "dim"), value)
    output.line("")


def _facts(record: Record) -> Iterator[tuple[str, str | Cell]]:
    yield "operation", record.name.hex()
    yield "method", record.method
    yield "state", Cell(record.state.value, STYLES[record.state])
    yield "effects", record.effects.value
    if record.owner:
        yield "owner", record.owner
    yield "attempts", str(record.attempts)
    for name, failed in (("failed runs", record.failed_runs), ("failed undos", record.failed_undos)):
        if failed:
            yield name, str(failed)
    if record.failure is not None:
        yield "failure", _outcome(record.failure.status.name, record.failure.details)
    if record.outcome is not None:
        yield "outcome", _outcome(record.outcome.status.name, record.outcome.details)
        message = record.outcome.message
        if message is not None:
            yield "response", f"{len(message)} bytes"
        elif record.outcome.status is Code.OK or record.streams:
            yield "response", "not kept"
    if record.expires_at is not None:
        yield "expires", instant(record.expires_at)
    trace = values.traceparent(record.trace)
    if trace is not None:
        yield "trace", trace
    yield "fence", record.fence.hex()


def _outcome(status: str, details: str) -> str:
    return f"{status}: {details}" if details else status


def _happened(record: Record, steps: Sequence[Step]) -> list[Event]:
    events: list[Event] = [(record.created_at, "claimed for the first time")]
    events += [(step.recorded_at, _step(step)) for step in steps if step.recorded_at is not None]
    if record.completed_at is not None and record.outcome is not None:
        by = " by an operator" if record.resolved else ""
        events.append((record.completed_at, f"completed with {record.outcome.status.name}{by}"))
    return events


def _noted(notes: Sequence[Note]) -> list[Event]:
    return [(note.at, Cell(_note(note), "bold")) for note in notes if note.at is not None]


def _note(note: Note) -> str:
    by = f", says {note.by}" if note.by else ""
    return f"{note.action}{by}{f': {note.reason}' if note.reason else ''}"


def _tell_events(events: list[Event], output: Output) -> None:
    for at, event in sorted(events, key=lambda event: event[0]):
        output.line(Cell(instant(at), "dim"), event)


def _step(step: Step) -> str:
    if step.name.startswith(UNDO):
        return f"step {step.name.removeprefix(UNDO)} was undone"
    return f"step {step.name} finished{', and can be undone' if step.undoable else ''}"


def _standing(record: Record) -> str:
    since = f"first claimed {age(record.created_at, now())} ago"
    if record.state is State.HELD:
        return f"held, {since}: {record.reason}"
    if record.state is State.WAITING:
        return f"waiting, {since}, {'and due' if record.lapsed else 'not due yet'}"
    return f"{record.state.value}, {since}, {'its lease has run out' if record.lapsed else 'its lease holds'}"


def _tell_bodies(body: dict[str, Any], output: Output) -> None:
    for name, value in body.items():
        if value not in (None, []):
            output.line("")
            output.line(Cell(name.replace("_", " "), "bold"))
            for line in json.dumps(value, indent=2, ensure_ascii=False).splitlines():
                output.line(f"  {line}")


def _advice(record: Record, store: str) -> Iterator[str]:
    """Yields what an operator can do. The store's URL is not repeated, since there may be a password in it."""
    resolve = f"grpc-idempotency resolve {store}{record.name.hex()}"
    if record.state is State.HELD:
        yield ""
        yield f"Find out what it did: in the logs of {record.owner or 'its server'}, and in the systems that it calls."
        yield f"  it took effect: {resolve} --completed --message-json JSON --module NAME"
        yield f"  it had none:    {resolve} --never-happened"
    elif record.state is not State.COMPLETED and record.lapsed:
        yield ""
        if record.effects is Effects.OPAQUE and record.state is not State.WAITING:
            yield "A server that serves its method, or a retry, will hold it. Then it is for an operator."
        else:
            yield "A server that serves its method, or a retry, will run it again. There is nothing to do."
