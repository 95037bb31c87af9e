"""Replays are exact, and a keyed first answer is what the call would have got without a key (4.7)."""

import logging
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Policy

from ..harness.handlers import Handler, Method
from ..harness.replies import Reply, new_key, text
from ..harness.servers import Servers

UNKNOWN, INTERNAL = grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL


async def thrice(serve: Servers, do: Handler) -> Reply:
    """Makes a call without a key and two with one key, which are answered alike; returns the replay."""
    service = await serve({"Do": Method(run=do, reply=None)})
    key = new_key()
    unkeyed, first, second = [await service.call("Do", key=one) for one in (None, key, key)]
    assert (unkeyed.mark, first.mark, second.mark) == (None, "executed", "replayed")
    assert unkeyed.plain == first.plain == second.plain
    return second


async def test_an_exceptions_text_goes_to_the_log(serve: Servers, caplog: pytest.LogCaptureFixture) -> None:
    """An exception is ``internal error`` to the client, with a key and without; its text goes to the log (4.7)."""

    async def do(_request: Any, _context: Any) -> bytes:
        raise LookupError("password=hunter2")

    reply = await thrice(serve, do)
    assert (reply.status, reply.details) == (UNKNOWN, "internal error")
    logged = [str(r.exc_info[1]) for r in caplog.records if r.name == "grpc_idempotency" and r.exc_info]
    assert logged == ["password=hunter2"] * 2


async def test_the_code_that_was_set_before_an_exception(serve: Servers) -> None:
    """A code and a message that were set before an exception are the call's, with a key and without (4.7)."""

    async def do(_request: Any, context: Any) -> bytes:
        context.set_code(grpc.StatusCode.DATA_LOSS)
        context.set_details("it is all gone")
        raise LookupError("password=hunter2")

    reply = await thrice(serve, do)
    assert "hunter2" not in repr(reply)
    assert (reply.status, reply.details) == (grpc.StatusCode.DATA_LOSS, "it is all gone")


async def test_details_beside_ok(serve: Servers) -> None:
    """Details that a handler sets beside OK are treated as without a key (4.7)."""

    async def do(_request: Any, context: Any) -> bytes:
        context.set_code(grpc.StatusCode.OK)
        context.set_details("all is well")
        return b"xxx"

    assert (await thrice(serve, do)).message == b"xxx"


@pytest.mark.parametrize("nothing", [None, "text", 42], ids=repr)
@pytest.mark.parametrize("reply", [StringValue, None], ids=["message", "bytes"])
async def test_a_return_of_the_wrong_type(serve: Servers, kind: str, nothing: object, reply: Any) -> None:
    """A handler that returns no message is an internal error, at once, and replayed as one (4.7)."""

    async def do(_request: Any, _context: Any) -> object:
        return nothing

    service = await serve({"Do": Method(run=do, reply=reply)})
    key = new_key()
    first, second = [await service.call("Do", key=key, timeout=5) for _ in range(2)]
    status, details = (INTERNAL, "Failed to serialize response!") if kind == "sync" else (UNKNOWN, "internal error")
    assert (first.status, first.details, first.mark) == (status, details, "executed")
    assert (second.plain, second.mark) == (first.plain, "replayed")


class Fatal(BaseException):
    """Not an ``Exception``."""


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("async", Fatal),
        ("async", GeneratorExit),
        ("async", KeyboardInterrupt),
        ("async", SystemExit),
        # On a thread these tests run a handler in a loop of its own, which lets no other of them through.
        ("thread", Fatal),
        ("sync", Fatal),
    ],
)
async def test_an_exception_of_the_worst_kind(serve: Servers, error: type[BaseException]) -> None:
    """A BaseException reaches the client at once, as an internal error, and the server goes on (4.7)."""

    async def do(request: StringValue, _context: Any) -> StringValue:
        if request.value:
            return text("fine")
        raise error("password=hunter2")

    service = await serve({"Do": do})
    key = new_key()
    first, second = [await service.call("Do", key=key, timeout=5) for _ in range(2)]
    assert (first.status, first.details, first.mark) == (UNKNOWN, "internal error", "executed")
    assert (second.plain, second.mark) == (first.plain, "replayed")
    assert (await service.call("Do", text("next"), key=new_key())).text == "fine"


async def test_more_than_may_be_kept_of_trailers(serve: Servers, caplog: pytest.LogCaptureFixture) -> None:
    """Above 6 KiB of message and trailers, what is dropped is dropped from the first answer on, and logged (4.11)."""

    async def do(_request: Any, context: Any) -> None:
        trailers = (("x-small", "1"), ("x-large", "y" * 7000), ("x-last", "2"))
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone", trailers)

    service = await serve({"Do": do})
    key = new_key()
    first, second = [await service.call("Do", key=key) for _ in range(2)]
    assert (first.status, first.details) == (grpc.StatusCode.NOT_FOUND, "gone")
    assert first.plain.trailers == (("x-small", "1"), ("x-last", "2"))
    assert (second.plain, second.mark) == (first.plain, "replayed")
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and "exceed" in r.getMessage()]
    assert "6144 bytes" in line
    assert "/test.Service/Do" in line


@pytest.mark.parametrize("kind", ["async"])
async def test_a_message_of_six_kibibytes(serve: Servers) -> None:
    """A status message that is too long is cut between two characters (4.11)."""

    async def do(_request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.NOT_FOUND, "é" * 50)

    service = await serve({"Do": do}, policy=Policy(max_trailer_bytes=62))
    assert (await service.call("Do", key=new_key())).details == "é" * 10  # each is sent as %C3%A9


@pytest.mark.parametrize("kind", ["async"])
async def test_what_is_small_but_large_to_send_is_cut_too(serve: Servers) -> None:
    """A long message in another script, and very many small trailers, arrive, and always the same (4.7, 4.11)."""

    async def do(request: StringValue, context: Any) -> None:
        if request.value == "long":
            await context.abort(grpc.StatusCode.NOT_FOUND, "€" * 2000)
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone", tuple((f"x-{n}", "1" * 50) for n in range(110)))

    service = await serve({"Do": do})
    for value in ("long", "many"):
        key = new_key()
        replies = [await service.call("Do", value, key=key) for _ in range(10)]
        assert {reply.status for reply in replies} == {grpc.StatusCode.NOT_FOUND}
        assert len({reply.plain for reply in replies}) == 1


async def test_compression_is_the_first_calls(serve: Servers) -> None:
    """A handler that asks for compression changes nothing of what is kept (4.7)."""

    async def do(_request: Any, context: Any) -> StringValue:
        context.set_compression(grpc.Compression.Gzip)
        return text("z" * 5000)

    service = await serve({"Do": do})
    key = new_key()
    first, second = [await service.call("Do", key=key) for _ in range(2)]
    assert first.text == second.text == "z" * 5000
