"""The verdict on servers whose faults are known: each fails exactly the probes that its faults concern."""

import pytest

from .conftest import WHOLE, Serve, run_check

LOSSES = {"lost-reply", "deadline", "cut"}
RETRIES = {"duplicate", "at-once", *LOSSES, "retry-policy", "map-order", "large-reply", "request-id"}
"""The probes that repeat a call unchanged."""
BAD_KEYS = {"key-malformed", "key-double", "key-empty", "key-long"}
ALWAYS = {"no-key", "key-case"}
SCOPES = {"other-method", "other-principal"}
ALL = {*RETRIES, *BAD_KEYS, *ALWAYS, *SCOPES, "other-body", "error"}

FAILING = {
    "aio": set(),
    "sync": set(),
    "guard": set(),
    "bare": ALL - ALWAYS - SCOPES,
    "dict": {"at-once", *LOSSES, "other-body", *SCOPES, "key-double", "key-empty", "error", "request-id"},
    "request-id": ALL - ALWAYS - SCOPES - {"request-id"},
    "no-claim": {"at-once", *LOSSES, "other-body"},
    "no-fingerprint": {"other-body"},
    "errors-not-stored": {"error"},
    "ttl-0": {*RETRIES, "other-body", "error"},
    "shared-by-methods": {"other-method"},
    "replies-cut": {"large-reply"},
    "released-while-running": LOSSES,
    "shared-by-callers": {"other-principal"},
    "final-while-running": {"at-once", *LOSSES},
    "late-fingerprint": {"other-body"},
    "few-kept": LOSSES,
    "keys-without-case": {"key-case"},
    "keys-cut": {"key-long"},
    "no-key-is-a-key": {"no-key"},
}
"""By kind of server, the probes that must fail. All others that apply must pass."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAILING)
def test_each_server_fails_exactly_its_probes(kind: str, serve: Serve) -> None:
    """A probe fails if and only if the server has the fault that it is made for; none is unclear."""
    ended = run_check(serve(kind), *WHOLE, "--trials", "20", "--seed", "1", "--json")
    expected = {probe: "failed" if probe in FAILING[kind] else "passed" for probe in ALL}
    told = [f"{one['probe']}: {one['happened']}" for one in ended.report["probes"]]
    assert ended.verdicts == expected, "\n".join(told)
    assert ended.code == (1 if FAILING[kind] else 0)
