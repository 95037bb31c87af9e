"""A PgBouncer in transaction mode, where the machine has one."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from .postgres import AS_NOBODY, NOBODY, QUIET, free_port

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin")


@contextlib.contextmanager
def pooler(server: str) -> Iterator[str]:
    """Runs a pooler in front of a server, with few connections to it, and gives its URL."""
    assert PROGRAM is not None
    given, port = conninfo_to_dict(server), free_port()
    folder = Path(tempfile.mkdtemp(prefix="grpc-idempotency-pgbouncer-"))
    (folder / "users.txt").write_text(f'"{given["user"]}" "{given.get("password", "")}"\n')
    (folder / "pgbouncer.ini").write_text(
        f"""[databases]
* = host={given["host"]} port={given["port"]}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users.txt
pool_mode = transaction
default_pool_size = 5
max_client_conn = 500
"""
    )
    runner = []
    if os.getuid() == 0:  # it refuses to run as root
        os.chown(folder, NOBODY, NOBODY)
        runner = [sys.executable, "-I", "-c", AS_NOBODY, str(NOBODY)]
    process = subprocess.Popen([*runner, PROGRAM, "-q", str(folder / "pgbouncer.ini")], cwd=folder, **QUIET)
    url = f"postgresql://{given['user']}@127.0.0.1:{port}/{given['dbname']}"
    try:
        while True:
            assert process.poll() is None, "the pooler has ended"
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url, connect_timeout=5):
                break
            time.sleep(0.02)  # there is nothing to wait on before it listens
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
