"""Servers of payments in processes of their own, and the command that checks them."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from grpc_idempotency.__main__ import main

ROOT = Path(__file__).parents[2]
PAY = ("--method", "check.payments.v1.Payments/Pay", "--request", '{"payer": "{{marker}}"}')
COUNT = ("--count", "List", "--count-path", "payments")
ONE = ("--only", "duplicate")
WHOLE = (
    *PAY[:3],
    '{"payer": "{{marker}}", "notes": ["the rent for the month of May"], "labels": {"for": "May", "by": "transfer"}}',
    *COUNT,
    "--other-method",
    "Refund",
    "--other-request",
    '{"payer": "{{marker}}"}',
    "--failing-request",
    '{"payer": "nobody"}',
    "--as",
    "caller: alice",
    "--as",
    "caller: bob",
)
"""All that a probe of ``Pay`` can need, but servers that stop."""
COMMAND = (sys.executable, "-m", "grpc_idempotency", "check")


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


def run_check(*arguments: str) -> Ended:
    """Runs ``grpc-idempotency check`` in this process."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(["check", *arguments])
        except SystemExit as ended:  # by argparse
            code = int(ended.code or 0)
    return Ended(code=code, out=out.getvalue(), err=err.getvalue())


def probed(address: str, *arguments: str) -> Ended:
    """Runs one probe of ``Pay``, with counted effects."""
    return run_check(address, *PAY, *COUNT, *ONE, *arguments)


def only(*probes: str) -> tuple[str, ...]:
    """Returns the options that choose these probes."""
    return tuple(part for probe in probes for part in ("--only", probe))


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


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Returns the address of a server of this kind. It serves all tests: no two operations have one marker."""
    with ExitStack() as stack:

        @cache
        def start(kind: str, *arguments: str) -> str:
            ledger = tmp_path_factory.mktemp("payments") / "ledger"
            return stack.enter_context(serving(kind, "--ledger", str(ledger), *arguments))

        yield start


@pytest.fixture
def guarded(serve: Serve) -> str:
    """The address of a server with the interceptor."""
    return serve("guard")
