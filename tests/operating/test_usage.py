"""What the command takes, and what it says of all else (6.4)."""

import json
import re
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import grpc_idempotency
from grpc_idempotency import (
    Code,
    OperationNotFound,
    Outcome,
    PolicyError,
    SQLiteStore,
    State,
    StoreUnavailable,
    operating,
)
from grpc_idempotency.__main__ import main
from grpc_idempotency._command.main import COMMANDS, parser_of
from grpc_idempotency.operating import completed, never_happened, open_store, operation, operations

from .operations import REASON, Printed, add, held


@pytest.mark.parametrize(
    "wrong",
    [
        ["erase", "sqlite:///x.db"],
        ["ls", "sqlite:///x.db", "--state", "odd"],
        ["ls", "sqlite:///x.db", "more"],
        ["ls", "sqlite:///x.db", "--stu"],
        ["ls", "sqlite:///x.db", "--limit", "0"],
        *[["ls", "sqlite:///x.db", "--older-than", age] for age in ("0", "-1", "1w", "1.5h", "9" * 11 + "d", "")],
        ["watch", "sqlite:///x.db", "--every", "0"],
        ["watch", "sqlite:///x.db", "--every", "soon"],
        ["show", "sqlite:///x.db", "ab", "--principal", "a", "--subject", "b"],
        ["show", "sqlite:///x.db", "ab", "--principal-hex", "abc"],
        ["resolve", "{url}", "ab"],
        ["resolve", "{url}", "ab", "--completed", "--never-happened"],
        ["resolve", "{url}", "ab", "--completed", "--status", "FINE"],
        *[
            ["resolve", "{url}", "ab", "--completed", "--ttl", ttl]
            for ttl in ("0", "-1", "3155760001", "9" * 5000, "x")
        ],
    ],
)
def test_wrong_usage(store: SQLiteStore, url: str, wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A command that is none is told, with exit code 2, and nothing is done (6.4)."""
    claim = held(store, b"\xab" * 16)
    with pytest.raises(SystemExit) as left:
        main([part.format(url=url) for part in wrong])
    assert left.value.code == 2
    assert "error: " in capsys.readouterr().err
    record = store.get(claim.name)
    assert record is not None
    assert record.state is State.HELD


@pytest.mark.parametrize("more", [["--status", "NOT_FOUND"], ["--details", "x"], ["--stream"], ["--message-file", "-"]])
def test_no_outcome_of_what_never_happened(
    store: SQLiteStore, url: str, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """An operation that never happened has no outcome; nothing is done, with exit code 2 (6.4)."""
    claim = held(store)
    assert main(["resolve", url, claim.name.hex(), "--never-happened", *more, *REASON]) == 2
    assert "has no outcome" in capsys.readouterr().err
    assert store.get(claim.name) is not None


def test_every_command_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    """``--help`` lists the commands; that of each has an example, which its parser takes (6.4)."""
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    listed = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"  {name} " in listed
        assert command.SUMMARY in listed
        with pytest.raises(SystemExit) as left:
            main([name, "--help"])
        assert left.value.code == 0
        told = capsys.readouterr().out
        assert command.EXAMPLES
        for what, line in command.EXAMPLES:
            assert f"  # {what}\n  {line}\n" in told + "\n"
            [words] = re.findall(rf"grpc-idempotency {name}( [^|]*)?", line)
            parser_of(name).parse_intermixed_args(shlex.split(words))


def test_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command the help is shown, with exit code 2."""
    assert main([]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert "  ls " in error


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    """``--version`` prints that of the library."""
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"grpc-idempotency {grpc_idempotency.__version__}\n"


def test_the_store_of_the_environment(
    store: SQLiteStore, url: str, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a URL the command uses that in ``GRPC_IDEMPOTENCY_STORE``; one on the command line is stronger (6.4)."""
    claim = held(store, b"\xab" * 16)
    monkeypatch.setenv("GRPC_IDEMPOTENCY_STORE", url)
    for words in (["ls"], ["stats"], ["show", "abab"], ["show", "--json", "abab"], ["export"], ["watch", "--once"]):
        assert main(words) == 0
        assert "held" in printed().lower()
    monkeypatch.setenv("GRPC_IDEMPOTENCY_STORE", "sqlite:///elsewhere.db")
    assert main(["show", url, "--json", "abab"]) == 0
    assert main(["forget", url, *REASON, "abab"]) == 0
    assert store.get(claim.name) is None


def test_no_store(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any URL the command says how to give one, with exit code 2."""
    monkeypatch.delenv("GRPC_IDEMPOTENCY_STORE", raising=False)
    assert main(["ls"]) == 2
    assert "GRPC_IDEMPOTENCY_STORE" in capsys.readouterr().err


def test_a_store_without_the_calls_of_operators(
    store: SQLiteStore, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store of somebody else that operators' tools can't use is told in one line (6.4)."""

    class Bare:
        """A store with the calls of the interceptors alone."""

    monkeypatch.setattr(operating, "store_from_url", lambda *_, **__: Bare())
    for command in COMMANDS.keys() - {"explain", "schema"}:
        more = ["ab"] if command in ("show", "resolve", "forget") else []
        how = [
            *(["--completed"] if command == "resolve" else []),
            *(REASON if command in ("resolve", "forget") else []),
        ]
        assert main([command, url, *more, *how]) == 2
        out, error = capsys.readouterr()
        assert (out, error.count("\n")) == ("", 1)
        assert "list, find, count, methods, notes, resolve, forget" in error


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("mysql://me:s3cret@host", "there is no store for the URL scheme mysql"),
        ("s3cret.db", "a store's URL begins with its scheme"),
        ("sqlite://s3cret", "an SQLite store's URL must be sqlite:///FILE"),
        ("postgresql://me:s3cret@host/db?s3cret", "the options of a postgresql URL are written as ?name=value"),
    ],
)
def test_urls(bad: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A URL that names no store is told in one line that repeats nothing of it, with exit code 2 (6.4)."""
    assert main(["ls", bad]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert (error.count("\n"), "s3cret" in error) == (1, False)


def test_a_relative_path(store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed) -> None:
    """``sqlite:///FILE`` is a file in this folder (6.4, 9.3)."""
    claim = add(store)
    monkeypatch.chdir(path.parent)
    assert main(["ls", f"sqlite:///{path.name}"]) == 0
    assert claim.name.hex() in printed()


def test_another_prefix(path: Path, url: str, printed: Printed) -> None:
    """The option ``table_prefix`` finds operations under other tables' names; without it there are none (6.2, 6.4)."""
    own = SQLiteStore(path, table_prefix="mine_")
    claim = add(own)
    own.close()
    assert main(["ls", f"{url}?table_prefix=mine_"]) == 0
    assert claim.name.hex() in printed()
    assert main(["ls", url]) == 1
    with closing(sqlite3.connect(path)) as db:
        assert not [name for (name,) in db.execute("SELECT name FROM sqlite_master") if name.startswith("grpc")]


@pytest.mark.parametrize(
    "command",
    [
        ["ls", "{url}"],
        ["stats", "{url}"],
        ["show", "{url}", "ab"],
        ["watch", "{url}"],
        ["export", "{url}"],
        ["sweep", "{url}"],
        ["forget", "{url}", "ab", *REASON],
        ["resolve", "{url}", "ab", "--completed", *REASON],
    ],
)
@pytest.mark.parametrize("what", ["nothing", "folder", "other database", "no database", "empty"])
def test_nothing_is_made(
    path: Path, url: str, command: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is not there, or is none of ours, is left so; told in one line, exit code 1 (6.4)."""
    if what == "folder":
        path.mkdir()
    elif what == "other database":
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE mine (x)")
    elif what != "nothing":
        path.write_bytes(b"no database " * 100 * (what == "no database"))
    before = path.read_bytes() if path.is_file() else None
    assert main([part.format(url=url) for part in command]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert (path.read_bytes() if path.is_file() else None) == before
    assert [one for one in path.parent.iterdir() if one != path] == []
    assert path.exists() == (what != "nothing")


# Functions


def test_the_same_as_functions(store: SQLiteStore, url: str) -> None:
    """A program can do all that the command does (6.4)."""
    first, second = held(store), held(store)
    with open_store(url) as opened:
        assert {record.name for record in operations(opened, state=State.HELD)} == {first.name, second.name}
        completed(opened, operation(opened, first.name.hex()), Outcome(status=Code.OK, message=b""))
        never_happened(opened, operation(opened, second.name.hex()))
        with pytest.raises(OperationNotFound):
            operation(opened, second.name.hex())
        assert [record.state for record in operations(opened)] == [State.COMPLETED]


def test_functions_raise(tmp_path: Path) -> None:
    """A URL that is none raises PolicyError, a store that is not there StoreUnavailable (6.4)."""
    with pytest.raises(PolicyError), open_store("mysql://x"):
        pass
    with pytest.raises(StoreUnavailable), open_store(f"sqlite:///{tmp_path / 'none.db'}"):
        pass


def test_the_schema_of_a_store_that_is_not_there_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints the SQL that creates the tables, and makes nothing itself (6.2)."""
    path = tmp_path / "new.db"
    assert main(["schema", f"sqlite:///{path}?table_prefix=idem_"]) == 0
    assert not path.exists()
    sql = capsys.readouterr().out
    assert main(["schema", f"sqlite:///{path}?table_prefix=idem_", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"sql": sql}
    with closing(sqlite3.connect(path)) as db:
        db.executescript(sql)
    with closing(SQLiteStore(path, table_prefix="idem_", migrate=False)) as store:
        assert store.list() == []
    assert main(["schema", f"sqlite:///{path}", "--since", "99"]) == 2
    assert "newest version" in capsys.readouterr().err
    assert main(["schema", "memory:"]) == 2
    assert "no tables" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_json_everywhere(store: SQLiteStore, url: str, printed: Printed, command: str) -> None:
    """With ``--json`` each command prints objects, one in each line, and nothing else on standard output (6.4)."""
    name = held(store).name.hex()
    more = {
        "show": [url, name],
        "watch": [url, "--once"],
        "resolve": [url, name, "--never-happened", *REASON],
        "forget": [url, name, *REASON],
        "explain": ["OUTCOME_UNKNOWN"],
    }
    assert main([command, *more.get(command, [url]), "--json"]) == 0
    lines = printed().splitlines()
    assert lines
    assert all(isinstance(json.loads(line), dict) for line in lines)
