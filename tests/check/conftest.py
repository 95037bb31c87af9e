"""Servers of payments in processes of their own, and the command that checks them."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAY = ("--method", "check.payments.v1.Payments/Pay", "--request", '{"payer": "{{marker}}"}')
COUNT = ("--count", "List", "--count-path", "payments")
WHOLE = (
    *PAY[:3],
    '{"payer": "{{marker}}", "notes": ["the rent for the month of May"], "labels": {"for": "May", "by": "transfer"}}',
    *COUNT,
    "--other-method",
    "Refund",
    "--other-request",
    '{"payer": "{{marker}}"}',
    "--as",
    "caller: alice",
    "--as",
    "caller: bob",
)
"""All that a probe of ``Pay`` can need, but servers that stop."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What the command did."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> Any:
        return json.loads(self.out)

    @property
    def verdicts(self) -> dict[str, str]:
        """The verdicts by probe, of those that were not skipped."""
        return {one["probe"]: one["verdict"] for one in self.report["probes"] if one["verdict"] != "skipped"}

    def happened(self, probe: str) -> str:
        """What a probe observed."""
        (found,) = (one["happened"] for one in self.report["probes"] if one["probe"] == probe)
        return str(found)


def run_check(*arguments: str, cwd: Path = ROOT, timeout: float = 200) -> Ended:
    """Runs ``grpc-idempotency check``."""
    command = [sys.executable, "-W", "error", "-m", "grpc_idempotency", "check", *arguments]
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=timeout, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Ended(code=done.returncode, out=done.stdout, err=done.stderr)


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """Runs a server, waits until it is ready, and yields its address."""
    command = [sys.executable, "-W", "error", "-m", "tests.check.payments", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            assert line.startswith("listening on "), f"{command} printed {line!r}"
            yield line.removeprefix("listening on ").strip()
        finally:
            process.terminate()


Serve = Callable[..., str]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts servers, by kind, that share one ledger; stops them at the end."""
    with ExitStack() as stack:

        def start(kind: str, *arguments: str) -> str:
            return stack.enter_context(serving(kind, "--ledger", str(tmp_path / "ledger"), *arguments))

        yield start
