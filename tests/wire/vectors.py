"""Makes the test vectors in ``docs/reference/vectors`` from their inputs: ``python tests/wire/vectors.py``.

Only the inputs stand here. The expected values come from the library. ``test_vectors.py`` computes the digests once
more, without the library.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from google.protobuf import any_pb2, duration_pb2, json_format, struct_pb2, symbol_database, timestamp_pb2, wrappers_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from grpc_idempotency._protocol.effects import Answer, Status
from grpc_idempotency._protocol.refusals import Reason, Refusal
from grpc_idempotency._wire.canonical import canonical
from grpc_idempotency._wire.fingerprint import InvalidCount, StreamFingerprint, fingerprint, message_count
from grpc_idempotency._wire.framing import frame
from grpc_idempotency._wire.key import InvalidKey, digest_name, find_key
from grpc_idempotency._wire.reply import reply_to
from grpc_idempotency.principals import SHARED
from grpc_idempotency.records import Code, Outcome

FOLDER = Path(__file__).parents[2] / "docs" / "reference" / "vectors"

Vector = dict[str, Any]
SECRET = b"a secret of sixteen bytes or more"
METHOD = "/payments.v1.PaymentService/Charge"


def keys() -> list[Vector]:
    """Metadata, and the key in it."""
    key, other = "idempotency-key", "x-idempotency-key"
    inputs: list[tuple[list[str], list[list[str]]]] = [
        ([key], [[key, "4b2e6c1e-6f0b-4d53-9d2e-0f6a9a6d2d11"]]),
        ([key], [[key, '"4b2e6c1e-6f0b-4d53-9d2e-0f6a9a6d2d11"']]),
        ([key], [[key, r'"a \"quoted\" \\ key"']]),
        ([key], [[key, "a b"]]),
        ([key], [[key, "k"]]),
        ([key], [[key, "k" * 255]]),
        ([key], [[key, "same"], [key, "same"]]),
        ([key], [[key, "same"], [key, '"same"']]),
        ([key, other], [[other, "k"]]),
        ([key, other], [[key, "k"], [other, "k"]]),
        ([key], [[other, "k"]]),
        ([key], []),
        ([key], [[key, ""]]),
        ([key], [[key, '""']]),
        ([key], [[key, "k" * 256]]),
        ([key], [[key, " k"]]),
        ([key], [[key, "k "]]),
        ([key], [[key, '" k"']]),
        ([key], [[key, '"k']]),
        ([key], [[key, '"k" ;p']]),
        ([key], [[key, r'"k\n"']]),
        ([key], [[key, "k\u00e9y"]]),
        ([key], [[key, "tab\tkey"]]),
        ([key], [[key, "one"], [key, "two"]]),
        ([key, other], [[key, "one"], [other, "two"]]),
    ]
    return [_key(headers, metadata) for headers, metadata in inputs]


def _key(headers: list[str], metadata: list[list[str]]) -> Vector:
    vector: Vector = {"headers": headers, "metadata": metadata}
    try:
        return vector | {"valid": True, "key": find_key([(name, value) for name, value in metadata], headers)}
    except InvalidKey:
        return vector | {"valid": False}


def counts() -> list[Vector]:
    """The metadata of client-streams, and the number of messages that it announces."""
    name = "idempotency-message-count"
    inputs = [["0"], ["3"], ["003"], ["3", "3"], ["999999999999999999"], [], [""], ["-1"], ["+1"], ["1.0"], ["3", "4"]]
    inputs += [["1000000000000000000"], [" 3"], ["\u0663"]]
    vectors: list[Vector] = []
    for values in inputs:
        vector: Vector = {"metadata": [[name, value] for value in values]}
        try:
            vectors.append(vector | {"valid": True, "count": message_count([(name, value) for value in values])})
        except InvalidCount:
            vectors.append(vector | {"valid": False})
    return vectors


def names() -> list[Vector]:
    """Principals, methods and keys, and the names of their operations."""
    inputs = [
        (SHARED, METHOD, "k", None),
        (b"alice", METHOD, "k", None),
        (b"bob", METHOD, "k", None),
        (b"alice", "/payments.v1.PaymentService/Refund", "k", None),
        (b"alic", "e" + METHOD, "k", None),
        (b"\x00\xff", METHOD, "4b2e6c1e-6f0b-4d53-9d2e-0f6a9a6d2d11", None),
        (b"alice", METHOD, "k", SECRET),
        (b"alice", METHOD, "k", SECRET + b"!"),
    ]
    return [
        {
            "principal_hex": principal.hex(),
            "method": method,
            "key": key,
            "secret_hex": None if secret is None else secret.hex(),
            "name_hex": digest_name(principal, method, key, secret).hex(),
        }
        for principal, method, key, secret in inputs
    ]


def fingerprints() -> list[Vector]:
    """Requests as they come, and their digests."""
    one, other = struct_pb2.Struct(), struct_pb2.Struct()
    one.update({"a": 1})
    other.update({"b": 2})
    forward = one.SerializeToString() + other.SerializeToString()
    backward = other.SerializeToString() + one.SerializeToString()
    info = error_details_pb2.ErrorInfo(reason="first try", domain="d")
    packed = any_pb2.Any(type_url="type.googleapis.com/google.protobuf.Struct", value=forward)
    repacked = any_pb2.Any(type_url="type.googleapis.com/google.protobuf.Struct", value=backward)
    unknown = any_pb2.Any(type_url="type.googleapis.com/nobody.Knows", value=forward)
    moment = timestamp_pb2.Timestamp(seconds=1, nanos=2)
    nested = status_pb2.Status(code=3, details=[packed])
    empty = wrappers_pb2.StringValue()
    inputs: list[tuple[type[Message], bytes, list[str], bytes | None]] = [
        (type(empty), b"", [], None),
        (type(empty), b"\n\x00", [], None),
        (type(one), forward, [], None),
        (type(one), backward, [], None),
        (type(one), forward, [], SECRET),
        (type(moment), b"\x10\x02\x08\x01", [], None),
        (type(info), info.SerializeToString(), [], None),
        (type(info), info.SerializeToString(), ["reason"], None),
        (type(info), error_details_pb2.ErrorInfo(domain="d").SerializeToString(), ["reason"], None),
        (type(packed), packed.SerializeToString(), [], None),
        (type(packed), repacked.SerializeToString(), [], None),
        (type(unknown), unknown.SerializeToString(), [], None),
        (type(nested), nested.SerializeToString(), ["message"], None),
    ]
    return [_fingerprint(*given) for given in inputs]


def _fingerprint(kind: type[Message], raw: bytes, excluded: list[str], secret: bytes | None) -> Vector:
    message = kind.FromString(raw)
    prints = fingerprint(raw, message, excluded, secret)
    return {
        "type": message.DESCRIPTOR.full_name,
        "request_hex": raw.hex(),
        "excluded": excluded,
        "secret_hex": None if secret is None else secret.hex(),
        "canonical_form_hex": canonical(raw, message, excluded).hex(),
        "raw_hex": prints.raw.hex(),
        "canonical_hex": prints.canonical.hex(),
    }


def streams() -> list[Vector]:
    """Client-streams and their digests, and the messages of server-streams as one value."""
    word = wrappers_pb2.StringValue(value="word").SerializeToString()
    late = b"\x10\x02\x08\x01"
    inputs: list[tuple[type[Message], list[bytes], bytes | None]] = [
        (wrappers_pb2.StringValue, [], None),
        (wrappers_pb2.StringValue, [b""], None),
        (wrappers_pb2.StringValue, [word], None),
        (wrappers_pb2.StringValue, [word, word], None),
        (wrappers_pb2.StringValue, [word, word], SECRET),
        (duration_pb2.Duration, [b"\x08\x01", late], None),
    ]
    vectors = []
    for kind, messages, secret in inputs:
        prints = StreamFingerprint(secret)
        for raw in messages:
            prints.add(raw, canonical(raw, kind.FromString(raw), []))
        vectors.append(
            {
                "type": kind.DESCRIPTOR.full_name,
                "messages_hex": [raw.hex() for raw in messages],
                "secret_hex": None if secret is None else secret.hex(),
                "raw_hex": prints.end().raw.hex(),
                "canonical_hex": prints.end().canonical.hex(),
                "framed_hex": frame(messages).hex(),
            }
        )
    return vectors


_REFUSALS: Mapping[Reason, tuple[dict[str, str], timedelta | None, bool]] = {
    Reason.KEY_INVALID: ({"field": "idempotency-key", "problem": "it is empty"}, None, False),
    Reason.KEY_REQUIRED: ({"field": "idempotency-key", "method": METHOD}, None, False),
    Reason.PRINCIPAL_REQUIRED: ({"method": METHOD}, None, False),
    Reason.STREAMING_UNSUPPORTED: ({"method": METHOD}, None, False),
    Reason.STREAM_LENGTH_REQUIRED: (
        {"field": "idempotency-message-count", "method": METHOD, "problem": "it did not come"},
        None,
        False,
    ),
    Reason.STREAM_TRUNCATED: ({"announced": "3", "method": METHOD, "received": "2"}, None, False),
    Reason.STORE_UNAVAILABLE: ({"effect": "The operation was not executed"}, timedelta(seconds=1), False),
    Reason.KEY_REUSED: ({"method": METHOD}, None, False),
    Reason.OUTCOME_UNKNOWN: ({"cause": "its server stopped", "operation": "00" * 16}, None, False),
    Reason.RESPONSE_NOT_RETAINED: (
        {"cause": "Its response was too large", "created": "2026-01-31T09:30:00.000Z", "status": "OK"},
        None,
        False,
    ),
    Reason.IN_FLIGHT: ({"retry_after_ms": "500"}, timedelta(milliseconds=500), True),
}


def refusals() -> list[Vector]:
    """Refusals, with their status, their details and their trailers."""
    vectors = []
    for reason, (variables, retry_after, push_back) in _REFUSALS.items():
        refusal = Refusal(reason=reason, variables=variables, retry_after=retry_after, push_back=push_back)
        answer = reply_to(refusal)
        trailers = {name: value for name, value in answer.trailers if isinstance(value, str)}
        details = dict(answer.trailers)["grpc-status-details-bin"]
        assert isinstance(details, bytes)
        vectors.append(
            {
                "reason": reason.name,
                "variables": variables,
                "status": answer.status.name,
                "message": answer.details,
                "details": json_format.MessageToDict(status_pb2.Status.FromString(details)),
                "trailers": trailers,
            }
        )
    return vectors


def answers() -> list[Vector]:
    """Answers of handlers, and the trailers with which they leave."""
    moment = datetime(2026, 1, 31, 9, 30, 0, 123_456, tzinfo=timezone(timedelta(hours=1)))
    handlers: list[list[str]] = [["x-trace", "t"]]
    vectors: list[Vector] = []
    for mark in Status:
        if mark is Status.REFUSED:
            continue  # not an answer of a handler
        created = moment if mark is Status.REPLAYED else None
        outcome = Outcome(status=Code.OK, message=b"", trailers=tuple((name, value) for name, value in handlers))
        vectors.append(
            {
                "status": mark.value,
                "stored_at": None if created is None else created.isoformat(),
                "handlers_trailers": handlers,
                "trailers": [list(entry) for entry in reply_to(Answer(outcome, mark, created)).trailers],
            }
        )
    return vectors


VECTORS: Mapping[str, Callable[[], list[Vector]]] = {
    "keys": keys,
    "message-counts": counts,
    "names": names,
    "fingerprints": fingerprints,
    "streams": streams,
    "refusals": refusals,
    "answers": answers,
}
"""The files, without their suffix, and what makes their content."""


def text_of(vectors: list[Vector]) -> str:
    """Returns the content of a file."""
    return json.dumps(vectors, indent=1, sort_keys=True) + "\n"


def class_of(full_name: str) -> type[Message]:
    """Returns the class of a message type."""
    found: type[Message] = symbol_database.Default().GetSymbol(full_name)
    return found


if __name__ == "__main__":
    for file, make in VECTORS.items():
        (FOLDER / f"{file}.json").write_text(text_of(make()))
