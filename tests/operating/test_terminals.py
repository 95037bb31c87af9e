"""An operator at a terminal: colours, questions, and two operators on one operation (6.4)."""

from datetime import timedelta

import pytest

from grpc_idempotency import Code, Outcome, SQLiteStore, State
from grpc_idempotency.operator_store import OperatorStore

from .operations import METHODS, add, held
from .terminals import Terminal

RED = "\x1b[1;31m"
# What a terminal adds is the same on every store.
engines = pytest.mark.parametrize(
    "engine",
    ["sqlite", *(pytest.param(name, marks=pytest.mark.slow) for name in ("postgresql", "valkey"))],
    indirect=True,
)


@engines
def test_a_table(there: OperatorStore, engine: str) -> None:
    """``ls`` has a header and colours, short names, and one line for each operation, cut at the width (6.4)."""
    claim = held(there)
    with Terminal("ls", engine, columns=50) as terminal:
        assert terminal.end() == 0
    header, row = terminal.shown.splitlines()
    assert header.split() == ["OPERATION", "STATE", "AGE", "METHOD", "WHY"]
    assert row.split()[:2] == [claim.name.hex()[:12], "held"]
    assert (len(row), row[-1]) == (50, "…")
    assert RED in terminal.raw


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, pytest.param({"TERM": "dumb"}, marks=pytest.mark.slow)])
def test_no_colours(store: SQLiteStore, url: str, environment: dict[str, str]) -> None:
    """``NO_COLOR`` is honoured, and a terminal without colours gets none."""
    claim = held(store)
    with Terminal("ls", url, environment=environment) as terminal:
        assert terminal.end() == 0
    assert claim.name.hex()[:12] in terminal.shown
    assert "[31" not in terminal.raw
    assert "[1;31" not in terminal.raw


def test_without_rich(store: SQLiteStore, url: str) -> None:
    """Without the extra the same is shown, without colours."""
    held(store, b"\xab" * 16)
    with Terminal("ls", url, columns=50, hidden="rich.console") as terminal:
        assert terminal.end() == 0
    _, row = terminal.shown.splitlines()
    assert terminal.shown == terminal.raw.replace("\r\n", "\n")
    assert row.startswith("abababababab  held")
    assert (len(row), row[-1]) == (50, "…")


@pytest.mark.slow
def test_an_empty_store(store: SQLiteStore, url: str) -> None:
    """That there is nothing is said to a person."""
    with Terminal("ls", url) as terminal:
        assert terminal.end() == 0
    assert terminal.shown == "no operations\n"


@engines
def test_resolve(there: OperatorStore, engine: str) -> None:
    """The operation is shown; the operator is asked why, and whether; both are kept (6.4)."""
    claim = held(there)
    with Terminal("resolve", engine, claim.name.hex()[:6], "--never-happened", "--by", "ann") as terminal:
        shown = terminal.wait_for("Why? It is kept with the operation: ")
        assert claim.name.hex() in shown
        assert "its server stopped" in shown
        terminal.write("\n")  # an empty reason is none
        terminal.wait_for("Why?")
        terminal.write("the ledger has no entry\n")
        terminal.wait_for("Say that it never happened? [y/N] ")
        terminal.write("yes\n")
        assert terminal.end() == 0
    assert there.get(claim.name) is None
    [note] = there.notes(claim.name)
    assert (note.by, note.action, note.reason) == ("ann", "never happened", "the ledger has no entry")


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        pytest.param("resolve", "n\n", id="resolve-no"),
        pytest.param("resolve", "what?\n", id="resolve-something else", marks=pytest.mark.slow),
        pytest.param("resolve", "\x04", id="resolve-end of input", marks=pytest.mark.slow),
        pytest.param("forget", "n\n", id="forget-no", marks=pytest.mark.slow),
        pytest.param("forget", "what?\n", id="forget-something else", marks=pytest.mark.slow),
        pytest.param("forget", "\x04", id="forget-end of input"),
    ],
)
def test_no(store: SQLiteStore, url: str, command: str, answer: str) -> None:
    """Any answer but yes leaves the operation as it is, with exit code 1."""
    claim = held(store)
    how = ["--never-happened"] if command == "resolve" else []
    with Terminal(command, url, claim.name.hex(), *how, "--reason", "x") as terminal:
        terminal.wait_for("[y/N] ")
        terminal.write(answer)
        assert terminal.end() == 1
    assert terminal.shown.endswith("grpc-idempotency: nothing was changed\n")
    assert store.get(claim.name) is not None
    assert store.notes(claim.name) == []


def test_ctrl_c(store: SQLiteStore, url: str) -> None:
    """Ctrl-C at a question leaves the operation as it is; no traceback, exit code 130."""
    claim = held(store)
    with Terminal("forget", url, claim.name.hex(), "--reason", "x") as terminal:
        terminal.wait_for("[y/N] ")
        terminal.interrupt()
        assert terminal.end() == 130
    assert "Traceback" not in terminal.shown
    assert store.get(claim.name) is not None


@engines
def test_two_operators(there: OperatorStore, engine: str) -> None:
    """Two operators have seen one held operation, and decide differently: the first one counts (4.2, 6.4)."""
    claim = held(there)
    name = claim.name.hex()
    ann = Terminal("resolve", engine, name, "--completed", "--status", "NOT_FOUND", "--reason", "seen", "--by", "ann")
    bob = Terminal("resolve", engine, name, "--never-happened", "--reason", "not seen", "--by", "bob")
    with ann, bob:
        ann.wait_for("[y/N] ")
        bob.wait_for("[y/N] ")
        ann.write("y\n")
        assert ann.end() == 0
        bob.write("y\n")
        assert bob.end() == 1
    assert "has changed meanwhile, and was left as it is" in bob.shown
    record = there.get(claim.name)
    assert record is not None
    assert record.outcome == Outcome(status=Code.NOT_FOUND)
    assert [note.by for note in there.notes(claim.name)] == ["ann"]


def test_a_fence_that_changed_while_an_operator_thought(store: SQLiteStore, url: str) -> None:
    """The operation was resolved, ran and was held again while the operator read of it: it is left as it is (4.2)."""
    claim = held(store)
    with Terminal("forget", url, claim.name.hex(), "--reason", "x") as terminal:
        terminal.wait_for("[y/N] ")
        assert store.resolve(claim.name, claim.fence, None, timedelta(1))
        held(store, claim.name)
        terminal.write("y\n")
        assert terminal.end() == 1
    record = store.get(claim.name)
    assert record is not None
    assert record.state is State.HELD


@engines
def test_watch(there: OperatorStore, engine: str) -> None:
    """A table of what is open, with counts, is drawn anew until Ctrl-C, which ends it well (6.4)."""
    first = add(there)
    with Terminal("watch", engine, "--every", "0.05") as terminal:
        terminal.wait_for("1 running")
        terminal.wait_for(first.name.hex()[:12])
        second = held(there, method=METHODS[1])
        terminal.wait_for("1 held")
        assert METHODS[1] in terminal.wait_for(second.name.hex()[:12]) + terminal.wait_for("\n")
        terminal.interrupt()
        assert terminal.end() == 0
    assert "\x1b[H" in terminal.raw
    assert "Traceback" not in terminal.shown


@pytest.mark.slow
def test_watch_of_many(store: SQLiteStore, url: str) -> None:
    """The table has as many lines as there is room for, and says how many more there are."""
    for _ in range(30):
        add(store)
    with Terminal("watch", url) as terminal:
        assert terminal.wait_for("and 15 more").count("running") == 16
        terminal.interrupt()
        assert terminal.end() == 0


@pytest.mark.slow
def test_watch_once(store: SQLiteStore, url: str) -> None:
    """``--once`` draws the table once, whole."""
    for _ in range(30):
        add(store)
    with Terminal("watch", url, "--once") as terminal:
        assert terminal.end() == 0
    assert terminal.shown.count("running") == 31
    assert "\x1b[H" not in terminal.raw
