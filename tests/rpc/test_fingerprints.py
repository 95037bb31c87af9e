"""When two requests count as the same (3.2)."""

from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.type_pb2 import Option, Type
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Policy

from ..harness.handlers import EACH_SERVER, Counting, Method
from ..harness.replies import new_key, text
from ..harness.servers import Servers

KINDS = EACH_SERVER


async def test_equal_bytes_are_enough(serve: Servers) -> None:
    """Equal raw bytes are the same request, also where the server knows no message type (3.2)."""
    handler = Counting()
    service = await serve({"Do": Method(run=handler, request=None)})
    key = new_key()
    raw = b"\xff not protobuf at all"
    assert (await service.call("Do", raw, key=key)).mark == "executed"
    assert (await service.call("Do", raw, key=key)).mark == "replayed"
    assert (await service.call("Do", raw + b"!", key=key)).reason == "KEY_REUSED"


async def test_the_order_of_a_map_does_not_matter(serve: Servers) -> None:
    """Bytes that differ only in the order of a map's entries are the same request (3.2)."""
    handler = Counting()
    service = await serve({"Do": Method(run=handler, request=Struct)})

    def entry(name: str) -> bytes:
        """One field of a Struct on the wire; messages that are concatenated are merged."""
        one = Struct()
        one[name] = name
        return one.SerializeToString()

    key = new_key()
    forth, back = entry("a") + entry("b"), entry("b") + entry("a")
    assert forth != back
    assert (await service.call("Do", forth, key=key)).mark == "executed"
    assert (await service.call("Do", back, key=key)).mark == "replayed"
    assert (await service.call("Do", entry("a"), key=key)).reason == "KEY_REUSED"
    assert handler.runs == 1


async def test_unknown_fields_count(serve: Servers) -> None:
    """A field that the server does not know yet is part of the request (3.2)."""
    service = await serve({"Do": Counting()})
    key = new_key()
    known = text("pay once").SerializeToString()
    assert (await service.call("Do", known, key=key)).mark == "executed"
    assert (await service.call("Do", known + b"\x10\x01", key=key)).reason == "KEY_REUSED"


@pytest.mark.parametrize("size", [0, 1, 100_000])
async def test_the_size_does_not_matter(serve: Servers, size: int) -> None:
    """An empty request and a large one are told from others all the same (3.2)."""

    async def do(request: Any, _context: Any) -> StringValue:
        return text(str(len(request.value)))

    service = await serve({"Do": do})
    key = new_key()
    request = text("x" * size)
    assert (await service.call("Do", request, key=key)).text == str(size)
    assert (await service.call("Do", request, key=key)).mark == "replayed"
    assert (await service.call("Do", text("x" * size + "y"), key=key)).reason == "KEY_REUSED"


# A message with fields of many kinds, on the wire: Type has name = 1, fields = 2, oneofs = 3, options = 4, syntax = 6.


def field(number: int, value: bytes) -> bytes:
    """A length-delimited field."""
    return bytes([number << 3 | 2, len(value)]) + value


NAME, ONE, OTHER = field(1, b"pay"), field(3, b"one"), field(3, b"other")
PROTO3 = b"\x30\x01"
"""``syntax`` is 1."""


async def first_and_retry(serve: Servers, first: bytes, *retries: bytes, **policy: Any) -> list[Any]:
    """What calls with one key are answered, each with one of these encodings of a ``google.protobuf.Type``."""
    service = await serve({"Do": Method(run=Counting(), request=Type)}, policy=Policy(**policy))
    key = new_key()
    assert (await service.call("Do", first, key=key)).mark == "executed"
    replies = [await service.call("Do", retry, key=key) for retry in retries]
    return [reply.reason or reply.mark for reply in replies]


async def test_a_proxy_that_encodes_anew(serve: Servers) -> None:
    """Fields in another order, a scalar that comes twice, a long varint, a default that is sent: the same (3.2)."""
    first = NAME + ONE + OTHER + PROTO3
    same = [
        PROTO3 + ONE + NAME + OTHER,
        field(1, b"pray") + first,  # the last one counts
        NAME + ONE + OTHER + b"\x30\x81\x00",
        first + field(5, b""),  # a message in a message that has nothing in it is there all the same: another one
        first + b"\x3a\x00",
    ]
    assert Type.FromString(same[3]) != Type.FromString(first)
    marks = await first_and_retry(serve, first, *same)
    assert marks == ["replayed", "replayed", "replayed", "KEY_REUSED", "replayed"]


async def test_what_is_really_another_request(serve: Servers) -> None:
    """Another value, another order of a list, a field less or more: another request (3.2)."""
    first = NAME + ONE + OTHER + PROTO3
    others = [
        field(1, b"pray") + ONE + OTHER + PROTO3,
        NAME + OTHER + ONE + PROTO3,
        NAME + ONE + PROTO3,
        NAME + ONE + OTHER,
        first + OTHER,
    ]
    assert await first_and_retry(serve, first, *others) == ["KEY_REUSED"] * 5


UNKNOWN_A, UNKNOWN_B = b"\xa0\x06\x01", b"\xaa\x06\x01x"
"""Fields 100 and 101, which the server's Type does not have."""


async def test_unknown_fields_among_the_known(serve: Servers) -> None:
    """Where among the known fields an unknown one stands does not matter; what it says does (3.2)."""
    first = NAME + UNKNOWN_A + PROTO3 + UNKNOWN_B
    retries = [NAME + PROTO3 + UNKNOWN_A + UNKNOWN_B, UNKNOWN_A + UNKNOWN_B + PROTO3 + NAME, NAME + PROTO3 + UNKNOWN_A]
    assert await first_and_retry(serve, first, *retries) == ["replayed", "replayed", "KEY_REUSED"]


async def test_unknown_fields_in_another_order(serve: Servers) -> None:
    """Protobuf keeps unknown fields in the order in which they came: another order is refused, and nothing runs."""
    first = NAME + UNKNOWN_A + UNKNOWN_B
    assert await first_and_retry(serve, first, NAME + UNKNOWN_B + UNKNOWN_A, first) == ["KEY_REUSED", "replayed"]


async def test_a_map_in_an_any(serve: Servers) -> None:
    """A message that is packed into the request is compared as a message; the handler gets its bytes as they came."""

    async def do(request: Option, _context: Any) -> Option:
        return request

    def option(*names: str) -> bytes:
        value = b"".join(Struct(fields={name: Value()}).SerializeToString() for name in names)
        return Option(value=AnyMessage(type_url="x/google.protobuf.Struct", value=value)).SerializeToString()

    service = await serve({"Do": Method(run=do, request=Option, reply=Option)})
    key = new_key()
    replies = [await service.call("Do", option(*names), key=key) for names in ("ba", "ab", "a")]
    assert [reply.reason or reply.mark for reply in replies] == ["executed", "replayed", "KEY_REUSED"]
    assert replies[0].message == replies[1].message == option("b", "a")


async def test_fields_that_are_left_out(serve: Servers) -> None:
    """Fields that the policy leaves out may differ, nested and in lists; no other one may (3.2, 7)."""

    def request(name: str = "pay", syntax: int = 0, file: str = "", options: tuple[tuple[str, str], ...] = ()) -> bytes:
        message = Type(name=name, syntax=syntax, options=[Option(name=n) for n, _ in options])  # type: ignore[arg-type]  # any number
        for option, (_, url) in zip(message.options, options, strict=True):
            option.value.type_url = url
        if file:
            message.source_context.file_name = file
        return message.SerializeToString()

    listed = (("a", "today"), ("b", "now"))
    retries = [
        request(syntax=1, file="one", options=listed),
        request(file="two", options=(("a", "tomorrow"), ("b", "then"))),
        request(file="three", options=(("a", "today"), ("c", "now"))),
        request(name="pray", options=listed),
    ]
    excluded = ("syntax", "source_context.file_name", "options.value.type_url", "no_such_field")
    marks = await first_and_retry(serve, request(file="x", options=listed), *retries, fingerprint_exclude=excluded)
    assert marks == ["replayed", "replayed", "KEY_REUSED", "KEY_REUSED"]


async def test_the_handler_sees_what_is_left_out(serve: Servers) -> None:
    """Fields that are left out of the fingerprint reach the handler, as the first call has them (3.2)."""
    service = await serve({"Do": Counting()}, policy=Policy(fingerprint_exclude=("value",)))
    key = new_key()
    assert (await service.call("Do", text("first"), key=key)).text == "first run 1"
    assert (await service.call("Do", text("second"), key=key)).text == "first run 1"
