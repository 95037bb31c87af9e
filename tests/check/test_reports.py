"""What the command and the function report: tables, JSON, JUnit, and no secrets."""

import json
import os
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from grpc_idempotency.check import Counting, Settings, Verdict, WrongUsage, check

from .conftest import COMMAND, COUNT, ONE, PAY, ROOT, Serve, only, probed, run_check

pytestmark = pytest.mark.slow


def test_json(serve: Serve) -> None:
    """One object; a finding has its meaning, its advice and a command."""
    report = probed(serve("bare"), "--json", "--only", "no-key", "--seed", "7").report
    assert {key: report[key] for key in ("method", "seed", "verdict")} == {
        "method": "/check.payments.v1.Payments/Pay",
        "seed": 7,
        "verdict": "unsafe",
    }
    one, other = report["probes"]
    assert one.keys() == other.keys() | {"means", "advice", "command", "known"}


def test_json_has_no_more_than_json(guarded: str) -> None:
    """With --json, nothing else is on the standard output."""
    assert json.loads(probed(guarded, "--json").out)["verdict"] == "safe"


def test_junit(serve: Serve, tmp_path: Path) -> None:
    """A failed probe is a failure, an unclear one an error, so that no CI server takes it for a success."""
    file = tmp_path / "check.xml"
    run_check(serve("bare"), *PAY, *only("duplicate", "retry-policy", "no-key", "ttl"), "--junit", str(file))
    suite = _suite(file)
    counted = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counted == {"tests": "4", "failures": "2", "errors": "0", "skipped": "1"}
    elements = {case.get("name"): [element.tag for element in case] for case in suite}
    assert elements == {"duplicate": ["failure"], "retry-policy": ["failure"], "no-key": [], "ttl": ["skipped"]}
    run_check(serve("guard"), *PAY, "--only", "retry-policy", "--junit", str(file))
    assert _suite(file).find("testcase/error") is not None


def test_junit_without_control_characters(serve: Serve, tmp_path: Path) -> None:
    """XML can't have them, whatever a command has printed; so the file can be read all the same."""
    file = tmp_path / "check.xml"
    command = "printf '\\033[31mno such unit\\000'; exit 5"
    run_check(serve("guard"), *PAY, *COUNT, "--restart", command, "--only", "restart", "--junit", str(file))
    error = _suite(file).find("testcase/error")
    assert error is not None
    assert "\\x1b[31mno such unit\\x00" in str(error.get("message"))


def test_a_junit_file_that_can_not_be_written(guarded: str) -> None:
    """It is told before any call takes effect."""
    ended = probed(guarded, "--junit", "/no/such/folder/check.xml")
    assert (ended.code, ended.out) == (2, "")
    assert "calibration" not in ended.err


def _suite(file: Path) -> ElementTree.Element:
    suite = ElementTree.parse(file).getroot().find("testsuite")  # noqa: S314  # our own
    assert suite is not None
    return suite


def test_secrets_stay_secret(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value of metadata is not printed. The name of an environment variable is, so that the command can be copied."""
    monkeypatch.setenv("BOBS_TOKEN", "hunter2")
    ended = probed(serve("bare"), "--metadata", "authorization: hunter3", "--as=caller: $BOBS_TOKEN")
    assert ended.code == 1
    assert "hunter" not in ended.out + ended.err
    assert "--metadata 'authorization: …' --as 'caller: $BOBS_TOKEN'" in ended.out
    ended = probed(serve("bare"), "--metadata", "authorization hunter3")
    assert (ended.code, "hunter" in ended.err) == (2, False)


def test_an_output_without_unicode(serve: Serve) -> None:
    """What the encoding of the output lacks is escaped."""
    command = [*COMMAND, serve("bare"), *PAY, *COUNT, *ONE, "--metadata", "token: secret"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "token: \\u2026" in done.stdout


def test_it_is_a_function_too(guarded: str) -> None:
    """A program checks a server, and gets a report."""
    settings = Settings(
        address=guarded,
        method="check.payments.v1.Payments/Pay",
        requests=['{"payer": "{{marker}}"}'],
        count=Counting(method="List", path="payments"),
        only=["duplicate"],
    )
    report = check(settings)
    assert report.safe
    assert [(one.probe, one.verdict) for one in report.results] == [("duplicate", Verdict.PASSED)]
    with pytest.raises(WrongUsage, match="--request is no"):
        check(Settings(address=guarded, method=settings.method, requests=["{"]))
