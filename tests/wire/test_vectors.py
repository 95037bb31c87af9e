"""The library does what the test vectors of ``docs/reference/wire.md`` say, and so does the text of the page itself."""

import hashlib
import hmac
import json
from typing import Any

import pytest
from google.protobuf import json_format
from google.rpc import status_pb2

from grpc_idempotency import Reason, refusal_of
from grpc_idempotency._wire.fingerprint import InvalidCount, message_count
from grpc_idempotency._wire.framing import unframe
from grpc_idempotency._wire.key import InvalidKey, find_key

from .vectors import FOLDER, VECTORS, Vector, class_of, text_of

PAGE = FOLDER.parent / "wire.md"


def read(file: str) -> list[Vector]:
    """The vectors of one file."""
    vectors: list[Vector] = json.loads((FOLDER / f"{file}.json").read_text())
    return vectors


def each(file: str) -> pytest.MarkDecorator:
    """Runs a test with each vector of a file."""
    vectors = read(file)
    return pytest.mark.parametrize("vector", vectors, ids=[f"{file}-{n}" for n in range(len(vectors))])


@pytest.mark.parametrize("file", VECTORS)
def test_the_files_are_what_the_library_does(file: str) -> None:
    """A change on the wire changes a file that other languages rely on, so nobody makes it by accident."""
    assert (FOLDER / f"{file}.json").read_text() == text_of(VECTORS[file]())


def test_the_page_names_every_file_and_no_other() -> None:
    """A reader of the specification finds the vectors."""
    files = {path.name for path in FOLDER.iterdir()}
    assert files == {f"{file}.json" for file in VECTORS}
    page = PAGE.read_text()
    assert [file for file in sorted(files) if f"(vectors/{file})" not in page] == []


def entries(metadata: list[list[str]]) -> list[tuple[str, str | bytes]]:
    return [(name, value) for name, value in metadata]


@each("keys")
def test_keys(vector: Vector) -> None:
    """A valid key is found, and everything else is refused."""
    if vector["valid"]:
        assert find_key(entries(vector["metadata"]), vector["headers"]) == vector["key"]
    else:
        with pytest.raises(InvalidKey):
            find_key(entries(vector["metadata"]), vector["headers"])


@each("message-counts")
def test_message_counts(vector: Vector) -> None:
    """A valid count is found, and everything else is refused."""
    if vector["valid"]:
        assert message_count(entries(vector["metadata"])) == vector["count"]
    else:
        with pytest.raises(InvalidCount):
            message_count(entries(vector["metadata"]))


def digest(data: bytes, secret_hex: str | None) -> bytes:
    """SHA-256, or HMAC-SHA-256, as the page says."""
    if secret_hex is None:
        return hashlib.sha256(data).digest()
    return hmac.new(bytes.fromhex(secret_hex), data, hashlib.sha256).digest()


def framed(*parts: bytes) -> bytes:
    """Each part behind its length in eight bytes, as the page says."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


@each("names")
def test_names(vector: Vector) -> None:
    """A name is the first half of a digest of four framed parts."""
    principal = bytes.fromhex(vector["principal_hex"])
    parts = framed(b"name", principal, vector["method"].encode(), vector["key"].encode())
    assert digest(parts, vector["secret_hex"])[:16].hex() == vector["name_hex"]


def test_no_two_operations_have_one_name() -> None:
    """The vectors of names are all of different operations."""
    names = [vector["name_hex"] for vector in read("names")]
    assert len(set(names)) == len(names)


@each("fingerprints")
def test_fingerprints(vector: Vector) -> None:
    """A fingerprint is a digest of the bytes, and one of the canonical form, which has the same fields."""
    raw, form = bytes.fromhex(vector["request_hex"]), bytes.fromhex(vector["canonical_form_hex"])
    assert digest(raw, vector["secret_hex"]).hex() == vector["raw_hex"]
    assert digest(form, vector["secret_hex"]).hex() == vector["canonical_hex"]
    kind = class_of(vector["type"])
    request = kind.FromString(raw)
    for field in vector["excluded"]:
        request.ClearField(field)
    if "google.protobuf.Any" not in kind.DESCRIPTOR.full_name:  # else the bytes in it may be in another order
        assert kind.FromString(form) == request or vector["type"] == "google.rpc.Status"


@each("streams")
def test_streams(vector: Vector) -> None:
    """A stream's digest covers its messages, each behind its length."""
    messages = [bytes.fromhex(raw) for raw in vector["messages_hex"]]
    assert digest(framed(*messages), vector["secret_hex"]).hex() == vector["raw_hex"]
    kind = class_of(vector["type"])
    forms = [kind.FromString(raw).SerializeToString(deterministic=True) for raw in messages]
    assert digest(framed(*forms), vector["secret_hex"]).hex() == vector["canonical_hex"]
    assert [*unframe(bytes.fromhex(vector["framed_hex"]))] == messages


class _Failed:
    """A failed call with the trailers of a vector, as the client's half of the library reads it."""

    def __init__(self, vector: Vector) -> None:
        status = json_format.ParseDict(vector["details"], status_pb2.Status())
        details = ("grpc-status-details-bin", status.SerializeToString())
        self._trailers = (*vector["trailers"].items(), details)

    def trailing_metadata(self) -> Any:
        return self._trailers


@each("refusals")
def test_a_client_reads_refusals(vector: Vector) -> None:
    """The library's client side reads from the vector what its server side wrote."""
    refusal = refusal_of(_Failed(vector))  # type: ignore[arg-type]  # as much of a call as it reads
    assert refusal is not None
    assert refusal.reason.name == vector["reason"]
    assert refusal.variables == vector["variables"]
    assert refusal.message == vector["message"]


def test_every_reason_has_a_vector_and_a_line_on_the_page() -> None:
    """The vectors and the table of the page have the reasons in the order in which they are checked."""
    assert [vector["reason"] for vector in read("refusals")] == [reason.name for reason in Reason]
    rows = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    told = [(row[1].strip(" `"), row[2].strip()) for row in rows if row[1].strip(" `") in Reason.__members__]
    assert told == [(reason.name, reason.status.name) for reason in Reason]
