"""When two requests count as the same (3.2)."""

from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import StringValue

from .handlers import EACH_SERVER, Counting, Method
from .helpers import Servers, new_key, text

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
