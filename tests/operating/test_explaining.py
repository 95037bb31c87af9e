"""An operator asks what a refusal means (2.3)."""

import base64
import io
import json
import subprocess
import sys

import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.rpc import code_pb2, error_details_pb2, status_pb2

from grpc_idempotency import Reason, Refusal
from grpc_idempotency.__main__ import main
from grpc_idempotency._command.reasons import EXPLANATIONS
from grpc_idempotency._wire.reply import _details_of

from .operations import Printed

REFUSAL = Refusal(
    reason=Reason.OUTCOME_UNKNOWN, variables={"cause": "its server\x1b[31m stopped", "operation": "ab" * 16}
)
DETAILS = _details_of(REFUSAL).SerializeToString()


def test_every_reason_is_explained() -> None:
    """Each reason has its meaning, what the client does, and what the operator does (2.3)."""
    assert list(EXPLANATIONS) == list(Reason)
    assert all(all(explanation) for explanation in EXPLANATIONS.values())


@pytest.mark.parametrize(
    "given",
    [
        base64.b64encode(DETAILS).decode(),
        base64.b64encode(DETAILS).decode().rstrip("="),
        base64.urlsafe_b64encode(DETAILS).decode(),
        f"< (#1) Grpc-Status-Details-Bin: {base64.b64encode(DETAILS).decode()}\n< (#1) Grpc-Status: 9\n",
        f"Response trailers received:\ngrpc-status-details-bin: {base64.b64encode(DETAILS).decode()}\nx: y",
    ],
    ids=["padded", "not padded", "url-safe", "buf curl", "grpcurl"],
)
def test_details(given: str, printed: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Details in base64, as an argument or among trailers on standard input, are told with all that they say (2.3)."""
    for arguments in (["explain", given], ["explain"], ["explain", "-"]):
        monkeypatch.setattr("sys.stdin", io.StringIO(given + "\n"))
        assert main(arguments) == 0
        told = printed()
        assert "OUTCOME_UNKNOWN" in told
        assert "resolve STORE" in told
        assert "ab" * 16 in told
        assert "its server\\x1b[31m stopped" in told
        assert "\x1b" not in told


def test_bytes_that_are_no_text() -> None:
    """What can't be read as text is told in one line, too."""
    command = [sys.executable, "-m", "grpc_idempotency", "explain"]
    done = subprocess.run(command, input=b"\xff\xfe", capture_output=True, timeout=60)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)


def test_details_as_json(printed: Printed) -> None:
    """The same as JSON."""
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    status = status_pb2.Status.FromString(DETAILS)
    packed = Packed()
    packed.Pack(retry)
    status.details.append(packed)
    assert main(["explain", "--json", base64.b64encode(status.SerializeToString()).decode()]) == 0
    told = json.loads(printed())
    assert told == {
        "reason": "OUTCOME_UNKNOWN",
        "status": "FAILED_PRECONDITION",
        **EXPLANATIONS[Reason.OUTCOME_UNKNOWN]._asdict(),
        "message": REFUSAL.message,
        "variables": dict(REFUSAL.variables),
        "retry_after": 1.5,
    }


@pytest.mark.parametrize("reason", Reason)
def test_a_reason(reason: Reason, printed: Printed) -> None:
    """A reason alone, as in a metric, is explained as well."""
    assert main(["explain", reason.name]) == 0
    assert EXPLANATIONS[reason].client in printed()


OTHER = status_pb2.Status(code=code_pb2.NOT_FOUND, message="no such\nuser")
NEWER = status_pb2.Status(code=code_pb2.ABORTED, message="wait")
NEWER.details.add().Pack(error_details_pb2.ErrorInfo(reason="KEY_TIRED", domain="grpc-idempotency"))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("", "neither grpc-status-details-bin in base64"),
        ("KEY_REUSE", "one of the reasons"),
        ("ümlaut", "neither"),
        ("/////w==", "neither"),
        (base64.b64encode(OTHER.SerializeToString()).decode(), "it says NOT_FOUND: no such\\nuser"),
        (base64.b64encode(NEWER.SerializeToString()).decode(), "only a newer version"),
    ],
)
def test_what_is_no_refusal(
    given: str, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anything else is told in one line, with exit code 1."""
    monkeypatch.setattr("sys.stdin", io.StringIO(given))
    assert main(["explain", *([given] if given else [])]) == 1
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert says in error
