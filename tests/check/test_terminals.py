"""Progress on a terminal, and Ctrl-C."""

import os
import pty
import signal
import socket
import subprocess

import pytest

from grpc_idempotency.check._target import Target, workers
from grpc_idempotency.check._types import Method

from .conftest import COMMAND, COUNT, ONE, PAY, ROOT, Serve

pytestmark = pytest.mark.slow


def test_progress_on_a_terminal(guarded: str) -> None:
    """A terminal shows which probe runs, and its verdict."""
    near, far = pty.openpty()
    command = [*COMMAND, guarded, *PAY, *COUNT, *ONE]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=far, check=False)
    os.close(far)
    shown = os.read(near, 1 << 16).decode()
    os.close(near)
    assert done.returncode == 0
    assert "passed" in shown
    assert "the same call again" in shown


def test_ctrl_c_in_a_terminal(serve: Serve) -> None:
    """Ctrl-C ends it at once with 130, says that effects may come, and leaves the terminal with its cursor."""
    near, far = pty.openpty()
    command = [*COMMAND, serve("guard"), *PAY, *COUNT, "--ttl", "1000", "--only", "ttl"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=far) as process:
        os.close(far)
        shown = ""
        while "the retry comes late" not in shown:
            shown += os.read(near, 1 << 16).decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stdout is not None
        assert process.stdout.read() == b""
    shown += os.read(near, 1 << 16).decode()
    os.close(near)
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert "interrupted" in shown


def test_ctrl_c_waits_for_no_call() -> None:
    """A call that the server does not answer is given up, and does not keep the command from ending."""
    method = Method(name="/a.B/C", request=None, response=None, takes_stream=False, gives_stream=False)
    with socket.create_server(("127.0.0.1", 0)) as server, Target(f"127.0.0.1:{server.getsockname()[1]}") as target:

        def interrupted() -> None:
            with workers(target, 1) as pool:
                pool.submit(lambda: codes.append(target.start(method, (b"",), timeout=600).reply().code))
                connections.append(server.accept()[0])
                raise KeyboardInterrupt

        codes: list[str] = []
        connections: list[socket.socket] = []
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert codes == ["CANCELLED"]
        connections[0].close()


def test_a_trial_that_fails_leaves_the_connection(guarded: str) -> None:
    """Further probes use it."""
    with Target(guarded) as target:
        with pytest.raises(ZeroDivisionError), workers(target, 1) as pool:
            pool.submit(lambda: 1 / 0).result()
        method = Method(name="/no.Service/Call", request=None, response=None, takes_stream=False, gives_stream=False)
        assert target.start(method, (b"",), timeout=30).reply().code == "UNIMPLEMENTED"
