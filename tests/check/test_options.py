"""The options that describe a server's keys, errors, refusals and trailers, and the profile that has them."""

from pathlib import Path

import pytest

from .conftest import COUNT, PAY, Serve, only, probed, run_check

pytestmark = pytest.mark.slow


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
