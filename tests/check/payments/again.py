"""Ends a server and starts it again: ``python -m tests.check.payments.again SIGNAL PORT ARGUMENT…``.

The arguments are those of the server. Its process id is in the file ``--pid``.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path


def main(name: str, port: str, *arguments: str) -> None:
    pid = int(Path(arguments[arguments.index("--pid") + 1]).read_text())
    os.kill(pid, signal.Signals[name])
    with suppress(ConnectionRefusedError):
        while True:
            socket.create_connection(("127.0.0.1", int(port))).close()
            time.sleep(0.01)
    subprocess.Popen(
        [sys.executable, "-m", "tests.check.payments", *arguments, "--port", port],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
