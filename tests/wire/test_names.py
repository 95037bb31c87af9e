"""What names an operation, and when two requests are the same (DESIGN 3)."""

from google.protobuf.struct_pb2 import Struct
from hypothesis import given, settings
from hypothesis import strategies as st

from grpc_idempotency._protocol.rules import same_request
from grpc_idempotency._wire.canonical import canonical
from grpc_idempotency._wire.fingerprint import StreamFingerprint, fingerprint
from grpc_idempotency._wire.key import digest_name
from grpc_idempotency.principals import SHARED, Caller, mtls_or_shared
from grpc_idempotency.records import Fingerprint

parts = st.tuples(st.binary(max_size=4), st.text(alphabet="/ab", max_size=4), st.text(alphabet="ab", max_size=4))


@settings(deadline=None)
@given(parts, parts)
def test_different_parts_make_different_names(one: tuple[bytes, str, str], other: tuple[bytes, str, str]) -> None:
    """Principal, method and key are framed: no character of one can pass for another's (3.1, 3.3)."""
    assert (digest_name(*one, None) == digest_name(*other, None)) == (one == other)


@settings(deadline=None)
@given(parts, st.integers(0, 2), st.integers(0, 2))
def test_boundaries_can_not_be_shifted(of: tuple[bytes, str, str], first: int, second: int) -> None:
    """The same characters, parted elsewhere, are another operation (3.1)."""
    joined = of[0] + of[1].encode() + of[2].encode()
    if joined.isascii():
        shifted = (
            joined[:first],
            joined[first : first + second].decode(),
            joined[first + second :].decode(),
        )
        assert (digest_name(*shifted, None) == digest_name(*of, None)) == (shifted == of)


def test_a_name_is_16_bytes_and_hides_its_key_behind_a_secret() -> None:
    """With a secret the digest is an HMAC: another secret, another name (3.1)."""
    names = {digest_name(b"alice", "/s.S/M", "k", secret) for secret in (None, b"", b"one", b"two")}
    assert len(names) == 4
    assert {len(name) for name in names} == {16}
    assert not any(name == b"k" for name in names)
    assert digest_name(b"alice", "/s.S/M", "k", b"one") in names


def printed(raw: bytes, message: object, secret: bytes | None) -> Fingerprint:
    """The fingerprint of a unary request."""
    return fingerprint(raw, message, (), secret)


def parsed(raw: bytes) -> Struct:
    return Struct.FromString(raw)


def test_the_order_of_a_map_does_not_count() -> None:
    """Serialized bytes differ for equal maps: the deterministic form decides (3.2)."""
    one, two = Struct(), Struct()
    one["a"], two["b"] = 1, "x"
    forward = one.SerializeToString() + two.SerializeToString()
    backward = two.SerializeToString() + one.SerializeToString()
    assert forward != backward
    assert parsed(forward) == parsed(backward)
    first, second = printed(forward, parsed(forward), None), printed(backward, parsed(backward), None)
    assert first.raw != second.raw
    assert same_request(first, second)


def test_another_value_is_another_request() -> None:
    """A request with another value has another digest of its bytes and of its meaning (3.2)."""
    one, two = Struct(), Struct()
    one["a"], two["a"] = 1, 2
    prints = [printed(each.SerializeToString(), each, None) for each in (one, two)]
    assert not same_request(prints[0], prints[1])


def test_equal_bytes_are_enough() -> None:
    """Also where what the handler sees of them has changed since (3.2)."""
    one, two = Struct(), Struct()
    one["a"], two["a"] = 1, 2
    assert same_request(printed(b"raw", one, None), printed(b"raw", two, None))


def test_what_is_no_protobuf_message_is_its_bytes() -> None:
    """A method with serializers of its own is fingerprinted all the same (3.2)."""
    raw = printed(b"raw", {"a": 1}, None)
    assert raw.canonical == raw.raw
    assert not same_request(raw, printed(b"other", {"a": 1}, None))


def test_a_secret_changes_both_digests() -> None:
    """With a secret both digests differ, so that a reader of the store can't try requests (3.1)."""
    struct = Struct()
    struct["a"] = 1
    prints = [printed(b"raw", struct, secret) for secret in (None, b"one", b"two")]
    digests = {digest for each in prints for digest in (each.raw, each.canonical)}
    assert len(digests) == 6
    assert {len(digest) for digest in digests} == {32}


def caller(key: str | None = None, *identities: bytes) -> Caller:
    return Caller(
        method="/s.S/M",
        metadata=(),
        peer="ipv4:127.0.0.1:1",
        peer_identity_key=key,
        peer_identities=identities,
        auth_context={},
    )


def test_the_default_principal_is_who_was_verified() -> None:
    """MTLS identities, in whatever order they come; all others share one scope, whatever their address (3.1)."""
    one, two = caller("x509_subject_alternative_name", b"a", b"b"), caller("x509_subject_alternative_name", b"b", b"a")
    assert mtls_or_shared(one) == mtls_or_shared(two)
    others = [caller("x509_common_name", b"a", b"b"), caller("x509_subject_alternative_name", b"ab")]
    assert mtls_or_shared(one) not in [mtls_or_shared(other) for other in others]
    assert mtls_or_shared(caller()) == mtls_or_shared(caller("x509_common_name")) == SHARED
    assert mtls_or_shared(one) != SHARED


def streamed(*raws: bytes, secret: bytes | None = None) -> Fingerprint:
    """The fingerprint of a stream of these messages."""
    prints = StreamFingerprint(secret)
    for raw in raws:
        prints.add(raw, canonical(raw, parsed(raw), ()))
    return prints.end()


def test_a_streams_fingerprint_is_of_all_its_messages() -> None:
    """A map's order does not count, wherever in the stream; the messages' own order and number do (3.2)."""
    one, two = Struct(), Struct()
    one["a"], two["b"] = 1, "x"
    first, second = one.SerializeToString(), two.SerializeToString()
    forward, backward = first + second, second + first
    for secret in (None, b"a secret of thirty-two bytes, ok!"):
        whole = streamed(first, forward, second, secret=secret)
        assert whole == streamed(first, forward, second, secret=secret)
        assert same_request(whole, streamed(first, backward, second, secret=secret))
        for other in (
            (first, forward),
            (first, second, forward),
            (first, first, second, second),
            (first + second,),
            (),
        ):
            assert not same_request(whole, streamed(*other, secret=secret))
    assert streamed(first).raw != streamed(first, secret=b"a secret of thirty-two bytes, ok!").raw
