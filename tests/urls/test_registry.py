"""Stores by their URLs: those of this package, and those of others."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import grpc_idempotency
from grpc_idempotency import PolicyError, StoreUnavailable, aio
from grpc_idempotency.__main__ import main
from grpc_idempotency.stores.memory import AsyncMemoryStore, MemoryStore
from grpc_idempotency.stores.postgres import AsyncPostgresStore, PostgresStore
from grpc_idempotency.stores.redis import AsyncRedisStore, RedisStore
from grpc_idempotency.stores.sqlite import AsyncSQLiteStore, SQLiteStore

from ..operating.operations import REASON, held

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.mark.parametrize(
    ("url", "kind", "async_kind"),
    [
        ("memory:", MemoryStore, AsyncMemoryStore),
        ("sqlite:///x.db", SQLiteStore, AsyncSQLiteStore),
        ("SQLite:////tmp/a%20b.db?table_prefix=a_&busy_timeout=1.5", SQLiteStore, AsyncSQLiteStore),
        ("sqlite:///a@b.db?synchronous=EXTRA&foreign_keys=true", SQLiteStore, AsyncSQLiteStore),
        ("postgresql://host/db", PostgresStore, AsyncPostgresStore),
        ("postgres://me:s@host:5433/db?schema=mine&lock_timeout=2&sslmode=require", PostgresStore, AsyncPostgresStore),
        (
            "postgresql://a,b/db?transaction_pooler=true&max_connections=3&migrate=false",
            PostgresStore,
            AsyncPostgresStore,
        ),
        ("redis://:s@host:6380/2?prefix=mine&timeout=1", RedisStore, AsyncRedisStore),
        ("rediss://host?ssl_ca_certs=ca.pem&client_name=shop", RedisStore, AsyncRedisStore),
        ("valkey://host?replicas=1&replica_timeout=0.2&list_completed=false", RedisStore, AsyncRedisStore),
        ("valkeys://host", RedisStore, AsyncRedisStore),
    ],
)
def test_stores_of_this_package(url: str, kind: type, async_kind: type) -> None:
    """A URL makes the store of either kind, with the settings in its options, and neither opens nor creates it."""
    assert type(grpc_idempotency.store_from_url(url)) is kind
    assert type(aio.store_from_url(url)) is async_kind


def test_settings_arrive() -> None:
    """What a URL says is what the constructor gets."""
    store: Any = grpc_idempotency.store_from_url(
        "postgresql://me:p%40ss@host/db?schema=mine&lock_timeout=2&sslmode=require"
    )
    assert store._settings.conninfo == "postgresql://me:p%40ss@host/db?sslmode=require"
    assert (store._settings.schema, store._settings.lock_timeout, store._settings.migrate) == ("mine", 2.0, True)
    store = grpc_idempotency.store_from_url("postgresql://host/db", migrate=False)
    assert store._settings.migrate is False
    store = grpc_idempotency.store_from_url("valkey://host:7/3?prefix=mine&client_name=shop&migrate=false")
    assert store._server.urls == ("redis://host:7/3?client_name=shop",)
    assert store._keys.meta.startswith(b"mine:")
    assert store._migrate is False


@pytest.mark.parametrize("url", ["memory:", "sqlite:///none.db"])
def test_nothing_is_created_without_migrate(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``migrate=False`` a store that does not exist is an error."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreUnavailable):
        grpc_idempotency.store_from_url(url, migrate=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("driver", "url", "extra"), [("psycopg", "postgresql://host", "postgres"), ("redis", "valkey://host", "redis")]
)
def test_a_missing_extra_is_named(driver: str, url: str, extra: str) -> None:
    """Without a store's driver the error says what to install, and the command says it in one line."""
    hidden = f"import sys; sys.modules[{driver!r}] = None; from grpc_idempotency.__main__ import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", hidden, "ls", url], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"pip install 'grpc-idempotency[{extra}]'" in done.stderr


# Stores of others


def install(folder: Path, name: str, **groups: str) -> None:
    """Makes a distribution in a folder of ``sys.path``, with these lines in its groups of entry points."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    sections = {"stores": "grpc_idempotency.stores", "async_stores": "grpc_idempotency.aio.stores"}
    (info / "entry_points.txt").write_text("".join(f"[{sections[group]}]\n{line}\n" for group, line in groups.items()))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder on ``sys.path``."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    return site


def test_a_store_of_somebody_else(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A store that a package registers is made from its URL, and the command works on it."""
    shutil.copy(EXAMPLES / "own_store.py", site)
    shutil.copy(EXAMPLES / "own_operator_store.py", site / "somebodys_store.py")
    install(site, "somebodys-store", stores="own = somebodys_store:from_url")
    url = f"own:///{tmp_path}/own.db"
    store: Any = grpc_idempotency.store_from_url(url)
    assert (type(store).__module__, type(store).__name__) == ("somebodys_store", "OwnOperatorStore")
    claim = held(store)
    assert main(["ls", url, "--state", "held"]) == 0
    assert claim.name.hex() in capsys.readouterr().out
    assert main(["resolve", url, claim.name.hex()[:8], "--never-happened", *REASON]) == 0
    assert store.get(claim.name) is None
    with pytest.raises(PolicyError, match="own URL has no option mode"):
        grpc_idempotency.store_from_url(f"{url}?mode=ro")


def test_a_store_without_the_calls_of_operators(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Servers can use it. The command says what it lacks."""
    shutil.copy(EXAMPLES / "own_store.py", site)
    module = (
        "from own_store import OwnStore\ndef from_url(url, **_): return OwnStore(url.address.removeprefix('///'))\n"
    )
    (site / "plain_store.py").write_text(module)
    install(site, "plain-store", stores="plain = plain_store:from_url")
    url = f"plain:///{tmp_path}/plain.db"
    store: Any = grpc_idempotency.store_from_url(url)
    held(store)
    assert main(["ls", url]) == 2
    missing = "list, find, count, methods, notes, resolve, forget"
    error = f"grpc-idempotency: OwnStore is not for operators: it has no {missing}\n"
    assert capsys.readouterr() == ("", error)


def test_a_store_of_one_kind(site: Path) -> None:
    """A package may have a store for one kind of server; for the other there is none."""
    install(site, "half", stores="half = half_store:from_url")
    with pytest.raises(PolicyError, match="no store for the URL scheme half; known are: memory, "):
        aio.store_from_url("half://x")


@pytest.mark.parametrize("value", ["no_such_module:from_url", "datetime:from_url"])
def test_a_store_that_can_not_be_imported(site: Path, value: str) -> None:
    """The error says what is missing."""
    install(site, "broken", stores=f"broken = {value}")
    with pytest.raises(
        PolicyError, match=r"the store for the URL scheme broken can't be imported: .*(no_such|from_url)"
    ):
        grpc_idempotency.store_from_url("broken:")


def test_a_scheme_of_two_packages(site: Path) -> None:
    """Which of two packages is meant is not guessed."""
    install(site, "first", stores="twice = first_store:from_url")
    install(site, "second", stores="twice = second_store:from_url")
    with pytest.raises(PolicyError, match=r"several packages .* twice: first_store:from_url, second_store:from_url"):
        grpc_idempotency.store_from_url("twice:")
