"""The command's exit codes, and what it says with each."""

import os
import re
import subprocess
import sys

import pytest

from .conftest import COMMAND, COUNT, ONE, PAY, ROOT, Serve, probed, run_check

pytestmark = pytest.mark.slow


def test_safe_is_0(guarded: str) -> None:
    """A table names the method, the oracle and the verdict; a pipe gets no colours."""
    ended = probed(guarded, "--seed", "7")
    assert ended.code == 0
    assert ended.out.splitlines()[0].split() == ["check.payments.v1.Payments/Pay", "at", guarded]
    assert "counted: the length of payments" in ended.out
    assert "Seed: 7." in ended.out
    assert "SAFE: 1 passed." in ended.out
    assert "\x1b" not in ended.out
    assert re.fullmatch(r"calibration\nthe same call again: passed, \d+\.\d s\n", ended.err)
    assert probed(guarded, "--quiet").err == ""


def test_unsafe_is_1(serve: Serve) -> None:
    """A finding says what happened, what it means and what to do, and gives a command that shows it again."""
    address = serve("bare")
    ended = probed(address, "--seed", "7", "--skip", "key-*")
    assert ended.code == 1
    found = ended.out[ended.out.index("failed duplicate") :]
    assert [
        line.strip().partition(":")[0] for line in found.splitlines() if line.startswith("  ") and ": " in line
    ] == [
        "What happened",
        "What it means",
        "What to do",
        "See it again",
    ]
    (command,) = (line.partition(": ")[2] for line in found.splitlines() if "See it again" in line)
    assert command.endswith("--count List --count-path payments --only duplicate --seed 7")
    script = command.replace("grpc-idempotency", f"{sys.executable} -m grpc_idempotency", 1)
    again = subprocess.run(script, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S602
    assert again.returncode == 1
    assert "took effect 3 times" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--only", "duplicates"), "There is no probe 'duplicates'"),
        (("--metadata", "x: \u00e4"), "The value of x has characters"),
        (("--method", "Pay"), "'Pay' is no method"),
        (("--method", "check.payments.v1.Payments/Play"), "There is no method check.payments.v1.Payments/Play"),
        (("--method", "no.Service/Pay"), "no.Service"),
        (("--request", '{"payr": "x"}'), "--request is no check.payments.v1.PayRequest"),
        (("--request", '{"payer": "{{name}}"}'), "there is no variable {{name}}"),
        (("--request", '{"payer": ""}'), "INVALID_ARGUMENT"),
        (("--count", "PayAll"), "is a stream"),
        (("--count-path", "payment"), "has no field 'payment'"),
        (("--count-path", "next_page_token"), "neither a list nor a whole number"),
        (("--metadata", "caller"), "Write 'NAME: VALUE'"),
        (("--as", "caller: $NOBODY_HAS_THIS"), "There is no environment variable NOBODY_HAS_THIS"),
        (("--refusal", "key-lost=ABORTED"), "There is no refusal 'key-lost'. There are: key-invalid"),
        (("--known-failing", "no-such-file"), "no-such-file"),
        (("--trials", "0"), "must be a whole number, from 1 to 1000"),
        (("--wait", "soon"), "must be a number of seconds"),
    ],
)
def test_wrong_usage_is_2(arguments: tuple[str, ...], told: str, guarded: str) -> None:
    """An option that can't be used ends the command with a message that names it, before any probe."""
    options = dict(zip(PAY[::2] + COUNT[::2], PAY[1::2] + COUNT[1::2], strict=True))
    options[arguments[0]] = arguments[1]
    ended = run_check(guarded, *(part for option in options.items() for part in option))
    assert ended.code == 2, ended.err
    assert told in ended.err
    assert ended.out == ""


def test_a_method_is_asked_for(guarded: str) -> None:
    ended = run_check(guarded)
    assert (ended.code, "--method is missing" in ended.err) == (2, True)


def test_an_address_has_a_port() -> None:
    ended = run_check("localhost", *PAY)
    assert (ended.code, "Write HOST:PORT" in ended.err) == (2, True)


def test_unclear_is_3(guarded: str) -> None:
    """Without a count, a probe whose call may have run twice is unclear, and not passed."""
    ended = run_check(guarded, *PAY, "--only", "retry-policy", "--json")
    assert ended.verdicts == {"retry-policy": "unclear"}
    assert (ended.code, ended.report["verdict"]) == (3, "unclear")


def test_nothing_to_probe_is_3(guarded: str) -> None:
    """If no probe applies, nothing is known."""
    ended = probed(guarded, "--only", "ttl", "--skip", "duplicate")
    assert (ended.code, "UNCLEAR: 1 skipped" in ended.out) == (3, True)


def test_a_count_that_does_not_count_is_3(guarded: str) -> None:
    """Two fresh keys must have two effects, or the count is no oracle."""
    ended = run_check(guarded, *PAY, *COUNT, "--count-request", '{"payer": "nobody"}')
    assert ended.code == 3
    assert "must have two effects of one size, but the count changed by 0" in ended.err


def test_unreachable_is_4() -> None:
    ended = run_check("127.0.0.1:1", *PAY, "--wait", "0.2")
    assert (ended.code, ended.err) == (
        4,
        "grpc-idempotency check: No gRPC server answers on 127.0.0.1:1 in plain text.\n",
    )


@pytest.mark.parametrize("form", ["--quiet", "--json"])
def test_a_closed_pipe_changes_no_verdict(guarded: str, form: str) -> None:
    """If nobody reads the report, the exit code is that of the verdict, and there is no traceback."""
    here, there = os.pipe()
    os.close(here)
    command = [*COMMAND, guarded, *PAY, *COUNT, *ONE, form]
    done = subprocess.run(command, cwd=ROOT, stdout=there, stderr=subprocess.PIPE, text=True, check=False)
    os.close(there)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr


def test_help_names_the_exit_codes() -> None:
    ended = run_check("--help")
    assert ended.code == 0
    assert "exit codes: 0 safe to retry, 1 unsafe, 2 wrong usage" in " ".join(ended.out.split())
