"""The options that count effects, and those that allow real ones."""

import pytest

from .conftest import COUNT, ONE, PAY, Serve, only, run_check

pytestmark = pytest.mark.slow


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
