"""The command: its options, its exit codes, its reports."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import trustme

from grpc_idempotency.check import Counting, Settings, Verdict, WrongUsage, check
from grpc_idempotency.check._target import Target, workers
from grpc_idempotency.check._types import Method

from .conftest import COUNT, PAY, ROOT, Ended, Serve, run_check
from .payments.protos import descriptors

pytestmark = pytest.mark.slow

ONE = ("--only", "duplicate")


@pytest.fixture
def guarded(serve: Serve) -> str:
    return serve("guard")


def only(*probes: str) -> tuple[str, ...]:
    return tuple(part for probe in probes for part in ("--only", probe))


def probed(address: str, *arguments: str) -> Ended:
    """Runs one probe of ``Pay``, with counted effects."""
    return run_check(address, *PAY, *COUNT, *ONE, *arguments)


# Exit codes


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


# Effects


@pytest.mark.parametrize(
    ("count", "oracle"),
    [
        (("--count-path", "total"), "the difference of total"),
        (("--count-path", "total", "--count-request", '{"payer": "{{marker}}"}'), "the difference of total"),
        (("--count-path", "payments", "--count-request", '{"payer": "{{marker}}"}'), "the length of payments"),
    ],
)
@pytest.mark.parametrize(("kind", "verdict"), [("guard", "passed"), ("dict", "failed")])
def test_effects_are_counted(count: tuple[str, ...], oracle: str, kind: str, verdict: str, serve: Serve) -> None:
    """By a number or a list, of all or of each marker: the same verdicts."""
    ended = run_check(serve(kind), *PAY, "--count", "List", *count, *only("duplicate", "lost-reply"), "--json")
    assert oracle in ended.report["oracle"]
    assert ended.verdicts == {"duplicate": "passed", "lost-reply": verdict}, ended.out


def test_all_pages_are_counted(serve: Serve) -> None:
    """The list of more effects than a page has is read to its end."""
    address = serve("guard")
    for _ in range(2):  # each with some 100 payments; the server's pages have 100 at most
        ended = run_check(address, *PAY, *COUNT, *only("lost-reply", "no-key"), "--trials", "90", "--json")
        assert set(ended.verdicts.values()) == {"passed"}, ended.out


@pytest.mark.parametrize(("kind", "verdict"), [("guard", "passed"), ("dict", "failed")])
def test_effects_may_show_late(kind: str, verdict: str, serve: Serve) -> None:
    """Where a list lags behind, the check waits for it: an effect that is not listed yet is not a lost one."""
    ended = run_check(serve(kind, "--lag", "0.4"), *PAY, *COUNT, *only("lost-reply", "duplicate"), "--json")
    assert ended.verdicts == {"duplicate": "passed", "lost-reply": verdict}, ended.out


def test_without_an_oracle_nothing_passes_that_counts_effects(serve: Serve) -> None:
    """Where fresh calls get equal replies and nothing is counted, duplicates are unclear."""
    ended = run_check(
        serve("bare"),
        "--method",
        "check.payments.v1.Payments/List",
        *ONE,
        "--only",
        "no-key",
        "--only",
        "at-once",
        "--json",
    )
    assert ended.report["oracle"].startswith("none")
    assert set(ended.verdicts.values()) == {"unclear"}


@pytest.mark.parametrize(
    ("address", "replica"),
    [("192.0.2.1:50051", ()), ("shop.example:443", ()), ("127.0.0.1:1", ("--replica", "192.0.2.1:50051"))],
)
def test_real_effects_are_asked_for(address: str, replica: tuple[str, ...]) -> None:
    """A server that is not on this host is not called without --real-effects, and it is said what would be done."""
    ended = run_check(address, *PAY, *replica, "--kill", "kubectl delete pod shop-0")
    assert ended.code == 2
    said, command, asked = ended.err.splitlines()
    assert said.startswith(
        f"check.payments.v1.Payments/Pay of {' and '.join([address, *replica[1:]])} will be called some "
    )
    assert command == "This command will be run: kubectl delete pod shop-0"
    assert "add --real-effects" in asked


def test_real_effects_are_said_first() -> None:
    """With --real-effects it says what it will do, and then does it."""
    ended = run_check("192.0.2.1:50051", *PAY, "--real-effects", "--wait", "0.1")
    assert ended.code == 4
    assert ended.err.startswith("check.payments.v1.Payments/Pay of 192.0.2.1:50051 will be called some ")


def test_a_replica_must_be_reached(guarded: str) -> None:
    """A replica that does not answer is found before any call, and not by the probe that needs it."""
    ended = probed(guarded, "--replica", "127.0.0.1:1", "--wait", "0.2")
    assert (ended.code, "127.0.0.1:1" in ended.err) == (4, True)


# Types, headers, profiles


def test_a_descriptor_set_stands_in_for_reflection(serve: Serve, tmp_path: Path) -> None:
    """A server without reflection is checked with the types of a file; without one, the message says so."""
    address = serve("guard", "--without-reflection")
    ended = probed(address)
    assert (ended.code, "--descriptor-set FILE" in ended.err) == (2, True)
    file = tmp_path / "types.binpb"
    file.write_bytes(descriptors())
    assert probed(address, "--descriptor-set", str(file)).code == 0
    file.write_bytes(b"no descriptors")
    assert probed(address, "--descriptor-set", str(file)).code == 2


def test_tls(serve: Serve, tmp_path: Path) -> None:
    """A server that wants TLS and a client's certificate is called with them, over the relay too."""
    authority = trustme.CA()
    server, client = authority.issue_cert("localhost"), authority.issue_cert("client.example")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name, issued in (("server", server), ("client", client)):
        issued.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
    port = serve("guard", "--tls", str(tmp_path)).rpartition(":")[2]
    files = {"--ca": "ca.pem", "--cert": "client.pem", "--cert-key": "client.key"}
    options = [part for option, file in files.items() for part in (option, str(tmp_path / file))]
    arguments = (*PAY, *COUNT, *only("duplicate", "retry-policy", "cut", "at-once"), "--json")
    ended = run_check(f"localhost:{port}", *arguments, *options)
    assert set(ended.verdicts.values()) == {"passed"}, ended.out + ended.err
    assert run_check(f"localhost:{port}", *arguments, "--wait", "1").code == 4


def test_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    """A server on a Unix socket is on this host, and is called over the relay too."""
    path = tmp_path / "s"
    serve("guard", "--also", f"unix:{path}")
    ended = run_check(f"unix:{path}", *PAY, *COUNT, *only("duplicate", "retry-policy", "cut"), "--json")
    assert set(ended.verdicts.values()) == {"passed"}, ended.out + ended.err


def test_the_key_can_be_a_field(serve: Serve) -> None:
    """A server that knows only ``request_id`` passes if it is told that this is the key."""
    address = serve("request-id")
    other = ("--other-method", "Refund", "--other-request", '{"payer": "{{marker}}"}')
    arguments = (*only("duplicate", "at-once", "other-body", "other-method", "error", "retry-policy"), *other, "--json")
    ended = run_check(address, *PAY, *COUNT, *arguments, "--key-field", "request_id")
    assert set(ended.verdicts.values()) == {"passed"}, ended.out


def test_another_header(guarded: str) -> None:
    """The key is sent under the name that is given. A server that looks for another name sees none."""
    assert probed(guarded, "--header", "Idempotency-Key").code == 0
    assert probed(guarded, "--header", "x-request-key").code == 1


def test_an_error_of_the_request_alone_is_unclear(serve: Serve) -> None:
    """A server that checks requests before keys is not called unsafe for it; a stored error is told from a lost one."""
    address = serve("errors-not-stored")
    ended = run_check(address, *PAY, *COUNT, "--only", "error", "--json")
    assert ended.verdicts == {"error": "unclear"}
    ended = run_check(address, *PAY, *COUNT, "--only", "error", "--failing-request", '{"payer": "nobody"}', "--json")
    assert ended.verdicts == {"error": "failed"}


def test_a_request_that_does_not_fail(serve: Serve) -> None:
    """Where an empty message succeeds, no request that fails is known; one that was given to fail must do so."""
    lists = ("--method", "check.payments.v1.Payments/List", "--only", "error", "--json")
    assert run_check(serve("bare"), *lists).verdicts == {}
    ended = run_check(serve("bare"), *lists, "--failing-request", '{"payer": "x"}')
    assert ended.verdicts == {"error": "unclear"}


def test_refusal_codes(guarded: str) -> None:
    """A code that is not known as the refusal leaves it unclear, and the advice names the option."""
    arguments = (*PAY, *COUNT, "--only", "other-body")
    ended = run_check(guarded, *arguments, "--refusal", "key-reused=ABORTED")
    assert ended.code == 3
    assert "--refusal key-reused=FAILED_PRECONDITION" in ended.out
    assert run_check(guarded, *arguments, "--refusal", "key-reused=aborted,failed_precondition").code == 0


def test_trailers_that_tell_of_the_call(serve: Serve) -> None:
    """A trailer that is new with each call is a difference, and the advice names the option that allows it."""
    address = serve("trailers-of-calls")
    ended = probed(address)
    assert (ended.code, "the trailer served-at was" in ended.out, "--ignore-trailer" in ended.out) == (1, True, True)
    assert probed(address, "--ignore-trailer", "served-at").code == 0


def test_a_profile_has_the_options(guarded: str, tmp_path: Path) -> None:
    """A TOML file gives any option; the command line goes before it."""
    profile = tmp_path / "pay.toml"
    profile.write_text(
        """
        method = "check.payments.v1.Payments/Pay"
        count = "List"
        count-path = "payments"
        only = ["duplicate", "other-principal"]
        as = ["caller: alice", "caller: bob"]
        quiet = true
        [request]
        payer = "{{marker}}"
        [refusal]
        key-invalid = ["INVALID_ARGUMENT", "UNKNOWN"]
        """
    )
    ended = run_check(guarded, "--profile", str(profile), "--json")
    assert ended.verdicts == {"duplicate": "passed", "other-principal": "passed"}, ended.err
    ended = run_check(guarded, "--profile", str(profile), "--json", "--only", "no-key")
    assert ended.verdicts == {"no-key": "passed"}


@pytest.mark.parametrize(("text", "told"), [("methods = 1", "no option 'methods'"), ("method =", "Invalid value")])
def test_a_wrong_profile(text: str, told: str, tmp_path: Path) -> None:
    profile = tmp_path / "wrong.toml"
    profile.write_text(text)
    ended = run_check("127.0.0.1:1", "--profile", str(profile))
    assert (ended.code, told in ended.err) == (2, True), ended.err


def test_secrets_stay_secret(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value of metadata is not printed. The name of an environment variable is, so that the command can be copied."""
    monkeypatch.setenv("BOBS_TOKEN", "hunter2")
    ended = probed(serve("bare"), "--metadata", "authorization: hunter3", "--as=caller: $BOBS_TOKEN")
    assert ended.code == 1
    assert "hunter" not in ended.out + ended.err
    assert "--metadata 'authorization: …' --as 'caller: $BOBS_TOKEN'" in ended.out


# Reports


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


def test_known_failing(serve: Serve, tmp_path: Path) -> None:
    """A probe that may fail does not fail the check; one that passes all the same is named."""
    known = tmp_path / "known"
    known.write_text("# ticket 12\nduplicate  # the payment's own id helps\nno-key\n")
    ended = probed(serve("bare"), "--only", "no-key", "--known-failing", str(known))
    assert ended.code == 0
    assert "failed (known)" in ended.out
    assert "Known to fail, but passed: no-key." in ended.out
    known.write_text("duplicated\n")
    assert probed(serve("bare"), "--known-failing", str(known)).code == 2


def test_progress_on_a_terminal(guarded: str) -> None:
    """A terminal shows which probe runs, and its verdict."""
    near, far = pty.openpty()
    command = [sys.executable, "-m", "grpc_idempotency", "check", guarded, *PAY, *COUNT, *ONE]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=far, check=False)
    os.close(far)
    shown = os.read(near, 1 << 16).decode()
    os.close(near)
    assert done.returncode == 0
    assert "passed" in shown
    assert "the same call again" in shown


COMMAND = (sys.executable, "-m", "grpc_idempotency", "check")


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


def test_help_names_the_exit_codes() -> None:
    ended = run_check("--help")
    assert ended.code == 0
    assert "exit codes: 0 safe to retry, 1 unsafe, 2 wrong usage" in " ".join(ended.out.split())


def test_json_has_no_more_than_json(guarded: str) -> None:
    """With --json, nothing else is on the standard output."""
    assert json.loads(probed(guarded, "--json").out)["verdict"] == "safe"
