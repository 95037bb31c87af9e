"""How a key comes to the server (2.1)."""

from typing import Any

import grpc
import pytest

from grpc_idempotency import Policy

from ..harness.handlers import EACH_SERVER, Counting, Method
from ..harness.protos import declare
from ..harness.replies import KEY, new_key, refused, text
from ..harness.servers import Servers

KINDS = EACH_SERVER

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("key", ["k", "8e03978e-40d5-43e8-bc93-6894a57f9324", "a b!~", "x" * 255, "%41", "a,b;c=d"])
async def test_a_key_is_any_printable_ascii(serve: Servers, key: str) -> None:
    """1 to 255 printable ASCII characters are a key, as they are (2.1)."""
    handler = Counting()
    service = await serve({"Do": handler})
    assert (await service.call("Do", key=key)).mark == "executed"
    assert (await service.call("Do", key=key)).mark == "replayed"
    assert handler.runs == 1


async def test_a_quoted_key_is_unquoted(serve: Servers) -> None:
    """A quoted string of RFC 8941 is the same key as what it quotes (2.1)."""
    service = await serve({"Do": Counting()})
    first = await service.call("Do", key=r'"say \"when\" \\ then"')
    second = await service.call("Do", key='say "when" \\ then')
    assert (first.mark, second.mark) == ("executed", "replayed")


@pytest.mark.parametrize(
    "key", ["", "x" * 256, '"open', '"a" b', r'"a\b"', '""', '" a"', '"a "'], ids=lambda key: f"{key[:8]!r}"
)
async def test_a_malformed_key_is_refused(serve: Servers, key: str) -> None:
    """A malformed, empty or too long key is KEY_INVALID; the handler does not run (2.1, 2.3)."""
    handler = Counting()
    service = await serve({"Do": handler})
    refused(await service.call("Do", key=key), "KEY_INVALID", INVALID)
    assert handler.runs == 0


async def test_one_distinct_value(serve: Servers) -> None:
    """The same key twice is one key; two that differ are KEY_INVALID (2.1)."""
    service = await serve({"Do": Counting()})
    key = new_key()
    twice = await service.call("Do", key=key, metadata=[(KEY, f'"{key}"')])
    assert twice.mark == "executed"
    refused(await service.call("Do", key=key, metadata=[(KEY, new_key())]), "KEY_INVALID", INVALID)


async def test_a_binary_header_is_no_key(serve: Servers) -> None:
    """``idempotency-key-bin`` is another header: such a call has no key (2.1, 2.4)."""
    handler = Counting()
    service = await serve({"Do": handler})
    for _ in range(2):
        reply = await service.call("Do", metadata=[(f"{KEY}-bin", b"\x00key")])
        assert reply.mark is None
    assert handler.runs == 2


async def test_other_header_names(serve: Servers) -> None:
    """The names of the header are configured; all that come must agree, and no other name counts (2.1, 7)."""
    service = await serve({"Do": Counting()}, policy=Policy(headers=("x-idempotency-key", "request-id")))
    key = new_key()
    assert (await service.call("Do", metadata=[("x-idempotency-key", key)])).mark == "executed"
    assert (await service.call("Do", metadata=[("request-id", key)])).mark == "replayed"
    assert (await service.call("Do", key=key)).mark is None
    differing = [("x-idempotency-key", key), ("request-id", new_key())]
    refused(await service.call("Do", metadata=differing), "KEY_INVALID", INVALID)


# AIP-155

PACKAGE = "test.rpc.aip155"
Request = declare(PACKAGE, ["request_id", "body"], {"Do": False})


async def test_the_field_of_aip_155_is_the_key(serve: Servers) -> None:
    """A string field ``request_id`` is the key where none came in metadata; an empty one is none (2.1)."""
    handler = Counting()
    service = await serve({"Do": Method(run=handler, request=Request)}, service=f"{PACKAGE}.Service")
    key = new_key()
    first = await service.call("Do", Request(request_id=key, body="one"))
    second = await service.call("Do", Request(request_id=key, body="one"))
    assert (first.mark, second.mark) == ("executed", "replayed")
    assert second.plain == first.plain
    unkeyed = await service.call("Do", Request(body="one"))
    assert (unkeyed.mark, handler.runs) == (None, 2)
    keyed = await service.call("Do", Request(body="one"), key=new_key())
    assert keyed.mark == "executed"
    refused(await service.call("Do", Request(request_id='"', body="one")), "KEY_INVALID", INVALID)


async def test_a_field_and_a_header_must_be_equal(serve: Servers) -> None:
    """A call with the key in both places must have them equal (2.1)."""
    handler = Counting()
    service = await serve({"Do": Method(run=handler, request=Request)}, service=f"{PACKAGE}.Service")
    key = new_key()
    assert (await service.call("Do", Request(request_id=key), key=key)).mark == "executed"
    reply = await service.call("Do", Request(request_id=key), key=new_key())
    refused(reply, "KEY_INVALID", INVALID)
    assert handler.runs == 1


async def test_an_empty_request_is_a_request(serve: Servers) -> None:
    """A request of no bytes is as good as any other (3.2)."""
    service = await serve({"Do": Counting()})
    key = new_key()
    assert (await service.call("Do", b"", key=key)).mark == "executed"
    assert (await service.call("Do", b"", key=key)).mark == "replayed"
    assert (await service.call("Do", text("x"), key=key)).reason == "KEY_REUSED"


@pytest.mark.parametrize("how", ["return", "abort", "set", "raise"])
async def test_without_a_key_such_a_method_answers_as_any_other(serve: Servers, how: str) -> None:
    """Where the key could have come in the request and did not, the call is answered as ever (2.1, 2.4)."""

    async def do(_request: Any, context: Any) -> object:
        context.set_trailing_metadata((("x-a", "1"), ("x-b-bin", b"\x00")))
        if how == "abort":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
        if how == "raise":
            raise LookupError("password=hunter2")
        if how == "set":
            context.set_code(grpc.StatusCode.OUT_OF_RANGE)
            context.set_details("too far")
        await context.send_initial_metadata((("x-ahead", "1"),))
        return text("ok")

    replies = []
    for name in (f"{PACKAGE}.Service", f"{PACKAGE}.Unknown"):
        service = await serve({"Do": Method(run=do, request=Request)}, service=name)
        replies.append(await service.call("Do", Request(body="one")))
        assert await service.records() == []
    assert replies[0] == replies[1]
    assert replies[0].mark is None
    assert "hunter2" not in repr(replies)
