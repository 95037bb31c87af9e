"""The key as it comes in (DESIGN 2.1), and what is refused before anything is claimed (2.3)."""

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import example, given, settings
from hypothesis import strategies as st

from grpc_idempotency._methods.resolve import Method
from grpc_idempotency._protocol.effects import Call
from grpc_idempotency._protocol.refusals import Reason, Refusal
from grpc_idempotency._server.admission import Admission, NotAdmitted
from grpc_idempotency._server.context import Snapshot
from grpc_idempotency._server.replays import Replays
from grpc_idempotency._server.target import Target
from grpc_idempotency._wire.key import InvalidKey, carries_key, find_key, parse_key
from grpc_idempotency._wire.reply import reply_to
from grpc_idempotency.policy import Policy
from grpc_idempotency.principals import Caller, PrincipalFunction
from grpc_idempotency.records import Effects
from shop.orders.v1.orders_pb2 import CreateOrderRequest

HEADER = "idempotency-key"
KEY = re.compile(r"[!-~]([ -~]{0,253}[!-~])?")
QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')

keys = st.from_regex(KEY, fullmatch=True)


def quoted(key: str) -> str:
    """As a string of RFC 8941, 3.3.3."""
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


def meant(value: str) -> str | None:
    """The key that a header's value means, by the letter of DESIGN 2.1; ``None`` where it means none."""
    if value.startswith('"'):
        inner = QUOTED.fullmatch(value)
        if inner is None:
            return None
        value = re.sub(r"\\(.)", r"\1", inner[1])
    return value if KEY.fullmatch(value) else None


@settings(deadline=None)
@given(keys)
def test_a_key_is_taken_as_it_is(key: str) -> None:
    """Any 1 to 255 printable ASCII characters with no space at their ends are a key (2.1)."""
    if not key.startswith('"'):
        assert parse_key(key) == key
    assert parse_key(quoted(key)) == key  # and the quoted form means the same one


@settings(deadline=None)
@given(st.one_of(st.text(), st.text(alphabet='"\\a ', max_size=8), keys, keys.map(quoted)))
@example("")
@example('""')
@example('"a')
@example('"a"b')
@example('"a\\b"')
@example('"a\\')
@example('" a"')
@example(" a")
@example("a ")
@example("a\x7f")
@example("é")
@example("a" * 255)
@example("a" * 256)
def test_everything_else_is_no_key(value: str) -> None:
    """A key that is malformed, empty or too long is refused and not repaired (2.1)."""
    key = meant(value)
    if key is not None:
        assert parse_key(value) == key
    else:
        with pytest.raises(InvalidKey):
            parse_key(value)


def test_a_key_is_text() -> None:
    """A binary header carries none (2.1)."""
    with pytest.raises(InvalidKey):
        parse_key(b"key")


def test_one_distinct_value_is_one_key() -> None:
    """The same value twice, in one header or in two, quoted or not, is one key; two that differ are none (2.1)."""
    headers = (HEADER, "x-idempotency-key")
    same = [(HEADER, "a"), ("other", "b"), ("x-idempotency-key", '"a"'), (HEADER, "a")]
    assert find_key(same, headers) == "a"
    assert find_key([("other", "b")], headers) is None
    with pytest.raises(InvalidKey, match="differ"):
        find_key([*same, ("x-idempotency-key", "b")], headers)
    assert find_key([*same, ("x-idempotency-key", "b")], (HEADER,)) == "a"


def test_a_malformed_key_is_a_key_that_came() -> None:
    """A call with a malformed key is refused, and does not pass as if it had none (2.3, 2.4)."""
    assert carries_key([(HEADER, "")], (HEADER,))
    assert not carries_key([("other", "a")], (HEADER,))
    assert not carries_key(None, (HEADER,))


# Admission

METHOD = "/s.S/M"


class Context:
    """As much of a server's context as a snapshot takes."""

    def __init__(self, metadata: list[tuple[str, str | bytes]], remaining: float | None = None) -> None:
        self._metadata = metadata
        self._remaining = remaining

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        return self._metadata

    def time_remaining(self) -> float | None:
        return self._remaining

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def peer_identities(self) -> None:
        return None

    def peer_identity_key(self) -> None:
        return None

    def auth_context(self) -> Mapping[str, list[bytes]]:
        return {}


def target(message: Message | None = None, **policy: Any) -> Target:
    method = Method(name=METHOD, policy=Policy(**policy), passes=False, has_request_id=message is not None)
    return Target(
        method=method,
        behaviour=lambda _request, _context: None,
        deserialize=None,
        serialize=None,
        request_streams=False,
        response_streams=False,
        awaited=False,
        generates=False,
    )


def admit(
    *values: str,
    message: Message | None = None,
    principal: PrincipalFunction = lambda _caller: "alice",
    remaining: float | None = None,
    secret: bytes | None = None,
    **policy: Any,
) -> Call | Refusal | None:
    """What becomes of a call with these values for its key."""
    context: Any = Context([(HEADER, value) for value in values], remaining)
    snapshot = Snapshot(METHOD, context)
    to = replace(target(message, **policy), deserialize=lambda raw: message or raw)
    try:
        return Admission(principal, secret, Replays(0), one_commit=False).admit(to, snapshot, b"request").call
    except NotAdmitted as exc:
        return exc.answer if isinstance(exc.answer, Refusal) else None


def refused(*values: str, **options: Any) -> Refusal:
    refusal = admit(*values, **options)
    assert isinstance(refusal, Refusal)
    return refusal


def nobody(_caller: Caller) -> None:
    return None


def fails(_caller: Caller) -> str:
    raise RuntimeError("no such tenant")


def test_without_a_key_there_is_nothing_to_do() -> None:
    """Where none is required (2.4); the principal is not even asked for."""
    assert admit(principal=fails) is None


def test_a_required_key_is_asked_for() -> None:
    """KEY_REQUIRED, which names the header (2.3)."""
    refusal = refused(required=True)
    assert refusal.reason is Reason.KEY_REQUIRED
    assert refusal.variables == {"field": HEADER, "method": METHOD}


@pytest.mark.parametrize("principal", [nobody, lambda _caller: "", lambda _caller: b"", fails])
def test_a_caller_who_is_nobody_has_no_keys(principal: PrincipalFunction) -> None:
    """PRINCIPAL_REQUIRED: the call fails closed, also where the function itself fails (2.3, 3.1)."""
    assert refused("k", principal=principal).reason is Reason.PRINCIPAL_REQUIRED


def test_reasons_are_checked_in_the_tables_order() -> None:
    """The key's form, then its presence, then whose it is (2.3)."""
    assert refused("", principal=nobody, required=True).reason is Reason.KEY_INVALID
    assert refused(principal=nobody, required=True).reason is Reason.KEY_REQUIRED


def test_the_request_may_carry_the_key() -> None:
    """A ``request_id`` is the key where no other came; one that came must be equal (2.1)."""
    in_message = admit(message=CreateOrderRequest(request_id="k"), required=True)
    in_header = admit("k")
    assert isinstance(in_message, Call)
    assert isinstance(in_header, Call)
    assert in_message.name == in_header.name
    assert isinstance(admit("k", message=CreateOrderRequest(request_id="k")), Call)
    assert isinstance(admit("k", message=CreateOrderRequest()), Call)
    assert admit(message=CreateOrderRequest()) is None
    for refusal in (
        refused("k", message=CreateOrderRequest(request_id="other")),
        refused(message=CreateOrderRequest(request_id=" k")),
    ):
        assert refusal.reason is Reason.KEY_INVALID
        assert refusal.variables["field"] == "request_id"


@pytest.mark.parametrize("secret", [None, b"a secret of thirty-two bytes, ok!"])
def test_a_request_that_carries_its_key_is_not_stored_under_a_secret(secret: bytes | None) -> None:
    """With a secret recovery is given a request only where the key is not in it (3.1, 6.5)."""
    without, within = CreateOrderRequest(customer_id="c"), CreateOrderRequest(customer_id="c", request_id="k")
    stored = {
        case: isinstance(call, Call) and call.request is not None
        for case, call in {
            "metadata": admit("k", message=without, secret=secret, effects=Effects.REPEATABLE),
            "request": admit(message=within, secret=secret, effects=Effects.REPEATABLE),
            "both": admit("k", message=within, secret=secret, effects=Effects.REPEATABLE),
            "unrecovered": admit("k", message=without, secret=secret, effects=Effects.OPAQUE),
        }.items()
    }
    assert stored == {"metadata": True, "request": not secret, "both": not secret, "unrecovered": False}


@pytest.mark.parametrize("secret", [None, b"a secret of thirty-two bytes, ok!"])
def test_nor_is_a_stream_of_such(secret: bytes | None) -> None:
    """The messages of a client-stream may carry the keys of other calls: they are not stored under a secret either."""
    request = CreateOrderRequest(customer_id="c")
    to = replace(target(request, effects=Effects.REPEATABLE), request_streams=True)
    to = replace(to, deserialize=CreateOrderRequest.FromString)
    context: Any = Context([(HEADER, "k"), ("idempotency-message-count", "3")])
    snapshot = Snapshot(METHOD, context)
    admission = Admission(lambda _caller: "alice", secret, Replays(0), one_commit=False)
    for ids, stored in ((("", "", ""), True), (("", "other", ""), not secret)):
        intake = admission.stream(to, snapshot)
        for request_id in ids:
            intake.take(CreateOrderRequest(customer_id="c", request_id=request_id).SerializeToString())
        call = intake.end()
        assert (call.request is not None and len(call.request.messages) == 3) is stored


@pytest.mark.parametrize(
    "refusal",
    [
        lambda: refused("secret-key", "other"),
        lambda: refused("secret-key "),
        lambda: refused('"secret-key'),
        lambda: refused('"secret-key"x'),
        lambda: refused("secret-key" * 30),
        lambda: refused("secret-key\n"),
        lambda: refused("secret-key", principal=nobody),
        lambda: refused("secret-key", message=CreateOrderRequest(request_id="other")),
        lambda: refused("other", message=CreateOrderRequest(request_id="secret-key")),
    ],
)
def test_the_key_is_in_no_refusal(refusal: Any) -> None:
    """No refusal has the key in its message or details (2.3, 3.1)."""
    sent = reply_to(refusal())
    assert "secret-key" not in sent.details
    assert not any(b"secret-key" in (v if isinstance(v, bytes) else v.encode()) for _, v in sent.trailers)


@settings(deadline=None)
@given(st.text(min_size=4).filter(lambda value: meant(value) is None and not value.isspace()))
def test_no_malformed_key_is_repeated(value: str) -> None:
    """No refusal repeats what came in a key's place, which may be a secret (2.3)."""
    text = reply_to(refused(value)).details
    assert text == reply_to(refused(value)).details
    neutral = {reply_to(refused(bad)).details for bad in ("", " a", "a ", '"a', '"a"b', '"\\b"', "é")}
    assert text in neutral or re.search(r"it has \d+ characters", text)


def test_a_wait_ends_before_the_calls_own_deadline() -> None:
    """The smaller of the wait budget and the deadline less a margin (4.3)."""
    waits = {}
    for remaining in (None, 5.0, 500.0):
        call = admit("k", remaining=remaining)
        assert isinstance(call, Call)
        waits[remaining] = call.until - time.monotonic()
    assert waits[None] == pytest.approx(30.0, abs=3.0)
    assert waits[500.0] == pytest.approx(30.0, abs=3.0)
    assert waits[5.0] < 5.0 - 0.1
    assert waits[5.0] == pytest.approx(5.0 - 0.1, abs=3.0)
