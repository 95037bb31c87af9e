"""What the command takes, and what it says of all else (6.4)."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from grpc_idempotency import Code, OperationNotFound, Outcome, PolicyError, SQLiteStore, State, StoreUnavailable
from grpc_idempotency.__main__ import main
from grpc_idempotency.operating import completed, never_happened, open_store, operation, operations

from .operations import Printed, add, held


@pytest.mark.parametrize(
    "wrong",
    [
        ["list"],
        ["erase", "sqlite:///x.db"],
        ["list", "sqlite:///x.db", "--state", "odd"],
        ["resolve", "{url}", "ab"],
        ["resolve", "{url}", "ab", "--completed", "--never-happened"],
        ["resolve", "{url}", "ab", "--never-happened", "--status", "NOT_FOUND"],
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
    assert main(["list", bad]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert (error.count("\n"), "s3cret" in error) == (1, False)


def test_a_relative_path(store: SQLiteStore, path: Path, monkeypatch: pytest.MonkeyPatch, printed: Printed) -> None:
    """``sqlite:///FILE`` is a file in this folder (6.4, 9.3)."""
    claim = add(store)
    monkeypatch.chdir(path.parent)
    assert main(["list", f"sqlite:///{path.name}"]) == 0
    assert claim.name.hex() in printed()


def test_another_prefix(path: Path, url: str, printed: Printed) -> None:
    """The option ``table_prefix`` finds operations under other tables' names; without it there are none (6.2, 6.4)."""
    own = SQLiteStore(path, table_prefix="mine_")
    claim = add(own)
    own.close()
    assert main(["list", f"{url}?table_prefix=mine_"]) == 0
    assert claim.name.hex() in printed()
    assert main(["list", url]) == 1
    with closing(sqlite3.connect(path)) as db:
        assert not [name for (name,) in db.execute("SELECT name FROM sqlite_master") if name.startswith("grpc")]


@pytest.mark.parametrize(
    "command", [["list", "{url}"], ["show", "{url}", "ab"], ["resolve", "{url}", "ab", "--completed"]]
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
    with closing(sqlite3.connect(path)) as db:
        db.executescript(capsys.readouterr().out)
    with closing(SQLiteStore(path, table_prefix="idem_", migrate=False)) as store:
        assert store.list() == []
    assert main(["schema", f"sqlite:///{path}", "--since", "99"]) == 2
    assert "newest version" in capsys.readouterr().err
    assert main(["schema", "memory:"]) == 2
    assert "no tables" in capsys.readouterr().err
