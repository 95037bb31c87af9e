"""Refusals and answers as they go out (DESIGN 2.2, 2.3)."""

import string
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from grpc_idempotency._protocol import rules as protocol
from grpc_idempotency._protocol.effects import Answer, Call, Status
from grpc_idempotency._protocol.refusals import DOMAIN, Reason, Refusal
from grpc_idempotency._wire.reply import reply_to, rfc3339
from grpc_idempotency._wire.trailers import cap
from grpc_idempotency.policy import Policy
from grpc_idempotency.records import Code, Effects, Fingerprint, Outcome, Record, State

CALL = Call(b"name", "/s.S/M", Fingerprint(raw=b"", canonical=b""), Policy(), until=0.0)
BAD_REQUEST, RETRY = "BadRequest", "RetryInfo"


def not_retained() -> Any:
    now = datetime(2024, 1, 1, tzinfo=timezone.utc)
    record = Record(
        name=b"name",
        method="/s.S/M",
        state=State.COMPLETED,
        fence=b"f",
        fingerprint=CALL.fingerprint,
        effects=Effects.OPAQUE,
        attempts=1,
        created_at=now,
        completed_at=now,
        outcome=Outcome(status=Code.OK),
    )
    return protocol._replay(CALL, record, waited=False)


def refusal(reason: Reason, **variables: str) -> Refusal:
    return Refusal(reason=reason, variables=variables)


TABLE: dict[Reason, tuple[Code, set[str], bool, Any]] = {
    # reason: status, what is added, whether gRPC's own retries are told when to come again; and a refusal like it
    Reason.KEY_INVALID: (
        Code.INVALID_ARGUMENT,
        {BAD_REQUEST},
        False,
        refusal(Reason.KEY_INVALID, field="idempotency-key", problem="it is empty"),
    ),
    Reason.KEY_REQUIRED: (
        Code.INVALID_ARGUMENT,
        {BAD_REQUEST},
        False,
        refusal(Reason.KEY_REQUIRED, field="idempotency-key", method="/s.S/M"),
    ),
    Reason.PRINCIPAL_REQUIRED: (
        Code.UNAUTHENTICATED,
        set(),
        False,
        refusal(Reason.PRINCIPAL_REQUIRED, method="/s.S/M"),
    ),
    Reason.STREAMING_UNSUPPORTED: (
        Code.UNIMPLEMENTED,
        set(),
        False,
        refusal(Reason.STREAMING_UNSUPPORTED, method="/s.S/M"),
    ),
    Reason.STREAM_LENGTH_REQUIRED: (
        Code.INVALID_ARGUMENT,
        {BAD_REQUEST},
        False,
        refusal(Reason.STREAM_LENGTH_REQUIRED, field="idempotency-message-count", method="/s.S/M", problem="none came"),
    ),
    Reason.STREAM_TRUNCATED: (
        Code.CANCELLED,
        set(),
        False,
        refusal(Reason.STREAM_TRUNCATED, method="/s.S/M", received="1", announced="2"),
    ),
    Reason.STORE_UNAVAILABLE: (Code.UNAVAILABLE, {RETRY}, False, protocol._store_unavailable("It did not run")),
    Reason.KEY_REUSED: (Code.FAILED_PRECONDITION, set(), False, protocol._key_reused(CALL)),
    Reason.OUTCOME_UNKNOWN: (Code.FAILED_PRECONDITION, set(), False, protocol._outcome_unknown(b"name", "it died")),
    Reason.RESPONSE_NOT_RETAINED: (Code.FAILED_PRECONDITION, set(), False, not_retained()),
    Reason.IN_FLIGHT: (Code.UNAVAILABLE, {RETRY}, True, protocol._in_flight()),
}


def test_the_table_is_the_designs() -> None:
    """Every reason is in it, in the order in which they are checked (2.3)."""
    assert list(TABLE) == list(Reason)


@pytest.mark.parametrize("reason", Reason)
def test_a_refusal_says_all_that_the_table_asks_for(reason: Reason) -> None:
    """Status, ErrorInfo with the message's variables, and what the table adds, as AIP-193 wants it (2.3)."""
    code, added, push_back, refused = TABLE[reason]
    assert refused.reason is reason
    sent = reply_to(refused)
    assert (sent.status, sent.message) == (code, None)
    trailers = dict(sent.trailers)
    expected = {"idempotency-status", "grpc-status-details-bin"}
    assert set(trailers) == (expected | {"grpc-retry-pushback-ms"} if push_back else expected)
    assert trailers["idempotency-status"] == "refused"

    details = trailers["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    status = status_pb2.Status.FromString(details)
    assert (status.code, status.message) == (code, sent.details)
    info, *rest = [unpacked(each) for each in status.details]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == (reason.name, DOMAIN)
    variables = {name for _, name, _, _ in string.Formatter().parse(reason.value.message) if name}
    assert set(info.metadata) == variables
    assert all(value in sent.details for value in info.metadata.values())
    assert {type(each).__name__ for each in rest} == added
    assert len(rest) == len(added)
    for each in rest:
        if isinstance(each, error_details_pb2.BadRequest):
            (violation,) = each.field_violations
            assert (violation.field, violation.description) == (info.metadata["field"], sent.details)
        elif isinstance(each, error_details_pb2.RetryInfo):
            assert each.retry_delay.ToTimedelta() == refused.retry_after > timedelta(0)
            if push_back:
                assert trailers["grpc-retry-pushback-ms"] == str(each.retry_delay.ToMilliseconds())


def unpacked(detail: Any) -> Message:
    kinds = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo)
    (kind,) = [kind for kind in kinds if detail.Is(kind.DESCRIPTOR)]
    message = kind()
    assert detail.Unpack(message)
    return message


# Answers

OUTCOME = Outcome(status=Code.NOT_FOUND, details="gone", trailers=(("a", "1"), ("b-bin", b"\x00"), ("a", "2")))


@pytest.mark.parametrize("mark", [Status.EXECUTED, Status.ATTACHED, Status.UNPROTECTED])
def test_an_answer_adds_its_mark_behind_the_handlers_trailers(mark: Status) -> None:
    """An answer has the handler's trailers, and behind them its mark and nothing else (2.2, 4.7)."""
    sent = reply_to(Answer(OUTCOME, mark))
    assert (sent.status, sent.details) == (OUTCOME.status, OUTCOME.details)
    assert sent.trailers == (*OUTCOME.trailers, ("idempotency-status", mark.value))


def test_a_replay_says_when_its_outcome_was_stored() -> None:
    """In RFC 3339, UTC (2.2)."""
    moment = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=timezone.utc)
    sent = reply_to(Answer(OUTCOME, Status.REPLAYED, moment))
    ours = (("idempotency-status", "replayed"), ("idempotency-created", "2024-05-06T07:08:09.123Z"))
    assert sent.trailers == OUTCOME.trailers + ours


def test_an_instant_is_told_in_utc() -> None:
    """Wherever it was taken, to the millisecond (RFC 3339)."""
    east = timezone(timedelta(hours=5, minutes=30))
    assert rfc3339(datetime(2024, 1, 1, 2, 0, tzinfo=east)) == "2023-12-31T20:30:00.000Z"


# What is too much for a peer


def sent_size(outcome: Outcome) -> int:
    """As a peer counts it: the message percent-encoded, and 32 bytes more for each header (RFC 9113, 6.5.2)."""
    printable = set(range(0x20, 0x7F)) - {ord("%")}
    message = sum(1 if byte in printable else 3 for byte in outcome.details.encode())
    return message + sum(len(name) + len(value) + 32 for name, value in outcome.trailers)


outcomes = st.builds(
    Outcome,
    status=st.just(Code.NOT_FOUND),
    details=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60),
    trailers=st.lists(
        st.one_of(
            st.tuples(st.text("ab", min_size=1, max_size=5), st.text("xy", max_size=30)),
            st.tuples(st.just("a-bin"), st.binary(max_size=30)),
        ),
        max_size=6,
    ).map(tuple),
)


@settings(deadline=None)
@given(outcomes, st.integers(0, 400))
def test_an_outcome_is_cut_to_what_peers_take(outcome: Outcome, limit: int) -> None:
    """Whole where it fits; else a beginning of its message, then those trailers that still fit, in order (4.11)."""
    cut, dropped = cap(outcome, limit)
    assert dropped == sent_size(outcome) - sent_size(cut)
    if sent_size(outcome) <= limit:
        assert cut == outcome
        return
    assert dropped > 0
    assert sent_size(cut) <= limit
    assert (cut.status, cut.message) == (outcome.status, outcome.message)
    assert outcome.details.startswith(cut.details)
    rest = iter(outcome.trailers)
    assert all(entry in rest for entry in cut.trailers)  # a subsequence
    if cut.details != outcome.details:
        longer = Outcome(status=Code.OK, details=outcome.details[: len(cut.details) + 1])
        assert sent_size(longer) > limit
