"""Replays are exact, and a keyed first answer is what the call would have got without a key (4.7)."""

import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2, status_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grpc_idempotency import Policy

from ..harness.handlers import Counting, Method
from ..harness.replies import STATUS_DETAILS, Reply, new_key, text
from ..harness.servers import Servers

UNKNOWN, INTERNAL = grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL


class Status(grpc.Status):
    """What ``abort_with_status`` takes, as grpcio-status makes it."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing_metadata: Any) -> None:
        self.code = code
        self.details = details
        self.trailing_metadata = trailing_metadata


@dataclass(frozen=True)
class Script:
    """What the handler is to do."""

    style: str
    code: str = "OK"
    details: str = ""
    trailers: tuple[tuple[str, str | bytes], ...] = ()
    size: int = 0


async def play(script: Script, context: Any) -> bytes:
    """The handler."""
    code = grpc.StatusCode[script.code]
    if script.style == "abort":
        await context.abort(code, script.details, script.trailers)
    if script.style == "abort_with_status":
        await context.abort_with_status(Status(code, script.details, script.trailers))
    if script.trailers:
        context.set_trailing_metadata(script.trailers)
    if script.style == "abort after trailers":
        await context.abort(code, script.details)
    if script.style == "raise":
        raise LookupError("password=hunter2")
    if script.style != "return":
        context.set_code(code)
        context.set_details(script.details)
    if script.style == "set and raise":
        raise LookupError("password=hunter2")
    return bytes(range(256)) * (script.size // 256) + b"x" * (script.size % 256)


Player = Callable[[Script], Awaitable[tuple[Reply, Reply, Reply]]]


@pytest.fixture
async def plays(serve: Servers) -> Player:
    """Plays a script to three calls: one without a key, and two with one key."""
    scripts: list[Script] = []

    async def do(_request: Any, context: Any) -> bytes:
        return await play(scripts[-1], context)

    service = await serve({"Do": Method(run=do, reply=None)})

    async def three(script: Script) -> tuple[Reply, Reply, Reply]:
        scripts.append(script)
        key = new_key()
        return (
            await service.call("Do"),
            await service.call("Do", key=key),
            await service.call("Do", key=key),
        )

    return three


def exact(unkeyed: Reply, first: Reply, second: Reply) -> None:
    """The first keyed answer is the un-keyed one, and the second is the first, but for the trailers that are ours."""
    assert unkeyed.mark is None
    assert first.plain == unkeyed.plain
    if second.mark == "replayed":
        assert second.plain == first.plain


async def test_abort(plays: Player) -> None:
    """An abort is replayed with its message and trailers, ``-bin`` ones to the byte (4.7)."""
    trailers = (("x-a", "1"), ("x-a", "2"), ("x-b-bin", b"\x00\xff\x00"))
    unkeyed, first, second = await plays(Script("abort", "NOT_FOUND", "no such thing: ümlaut \n 100 %", trailers))
    exact(unkeyed, first, second)
    assert second.mark == "replayed"
    assert (second.status, second.details) == (grpc.StatusCode.NOT_FOUND, "no such thing: ümlaut \n 100 %")
    assert second.plain.trailers == trailers


def rich() -> bytes:
    """A ``google.rpc.Status`` with a detail."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason="TOO_POOR", domain="bank.example"))
    status = status_pb2.Status(code=9, message="too poor", details=[detail])
    return status.SerializeToString()


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_abort_with_status(plays: Player) -> None:
    """``abort_with_status`` is replayed, its ``grpc-status-details-bin`` to the byte (4.7)."""
    trailers = ((STATUS_DETAILS, rich()),)
    unkeyed, first, second = await plays(Script("abort_with_status", "FAILED_PRECONDITION", "too poor", trailers))
    exact(unkeyed, first, second)
    assert (second.mark, second.reason) == ("replayed", "TOO_POOR")


@pytest.mark.parametrize("kind", ["thread"])
async def test_abort_with_status_on_a_thread(plays: Player) -> None:
    """On a thread a keyed handler has ``abort_with_status`` too, which gRPC's own context there lacks (4.10)."""
    trailers = ((STATUS_DETAILS, rich()),)
    _, first, second = await plays(Script("abort_with_status", "FAILED_PRECONDITION", "too poor", trailers))
    assert (first.mark, first.reason, second.plain) == ("executed", "TOO_POOR", first.plain)


async def test_set_code_and_return(plays: Player) -> None:
    """A status that was set before a return is the call's, and no message is sent (4.7)."""
    replies = await plays(Script("set", "ALREADY_EXISTS", "here it is", (("x-a", "1"),), size=10))
    exact(*replies)
    assert (replies[2].status, replies[2].message) == (grpc.StatusCode.ALREADY_EXISTS, None)


async def test_trailers_that_were_set_before_an_abort(plays: Player) -> None:
    """Trailers that were set stay when an abort brings none of its own (4.7)."""
    replies = await plays(Script("abort after trailers", "NOT_FOUND", "gone", (("x-a", "1"),)))
    exact(*replies)
    assert replies[2].plain.trailers == (("x-a", "1"),)


async def test_an_exceptions_text_never_leaves(plays: Player, caplog: pytest.LogCaptureFixture) -> None:
    """An exception is ``internal error`` to the client, with a key and without; its text goes to the log (4.7)."""
    unkeyed, first, second = await plays(Script("raise"))
    exact(unkeyed, first, second)
    for reply in (unkeyed, first, second):
        assert (reply.status, reply.details) == (UNKNOWN, "internal error")
        assert "hunter2" not in repr(reply)
    assert second.mark == "replayed"
    logged = [str(r.exc_info[1]) for r in caplog.records if r.name == "grpc_idempotency" and r.exc_info]
    assert logged == ["password=hunter2"] * 2


async def test_the_code_that_was_set_before_an_exception(plays: Player) -> None:
    """A code and a message that were set before an exception are the call's, with a key and without (4.7)."""
    unkeyed, first, second = await plays(Script("set and raise", "DATA_LOSS", "it is all gone"))
    assert "hunter2" not in repr((unkeyed, first, second))
    assert (first.status, first.details, second.mark) == (grpc.StatusCode.DATA_LOSS, "it is all gone", "replayed")
    exact(unkeyed, first, second)


async def test_details_beside_ok(plays: Player) -> None:
    """Details that a handler sets beside OK are treated as without a key (4.7)."""
    replies = await plays(Script("set", "OK", "all is well", size=3))
    exact(*replies)
    assert (replies[2].mark, replies[2].message) == ("replayed", b"xxx")


names = st.from_regex(r"x-[a-z0-9_.]{1,12}", fullmatch=True)
values = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)
entries = st.one_of(st.tuples(names, values), st.tuples(names.map(lambda name: f"{name}-bin"), st.binary(max_size=40)))
scripts = st.builds(
    Script,
    style=st.sampled_from(["return", "set", "abort", "abort after trailers", "raise"]),
    code=st.sampled_from([code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK]),
    details=st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    trailers=st.lists(entries, max_size=6).map(tuple),
    size=st.one_of(st.integers(0, 2000), st.sampled_from([65_535, 65_536, 1 << 20])),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=scripts)
async def test_whatever_the_handler_says(plays: Player, script: Script) -> None:
    """Status, message, details and trailers of any answer: with a key as without, and replayed the same (4.7)."""
    exact(*await plays(script))


@pytest.mark.parametrize("size", [0, 1, 65_536, 1 << 20, (4 << 20) - 100])
async def test_messages_of_all_sizes(plays: Player, size: int) -> None:
    """A message of any size that may be kept is replayed to the byte (4.7, 4.11)."""
    unkeyed, first, second = await plays(Script("return", size=size))
    exact(unkeyed, first, second)
    assert second.mark == "replayed"
    assert second.message is not None
    assert len(second.message) == size


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


async def test_a_swallowed_abort_wins(serve: Servers) -> None:
    """An abort counts though the handler swallows it and returns a message (4.7)."""

    async def do(_request: Any, context: Any) -> StringValue:
        with contextlib.suppress(Exception):
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, "too far")
        return text("never mind")

    service = await serve({"Do": do})
    key = new_key()
    first, second = [await service.call("Do", key=key) for _ in range(2)]
    assert (first.status, first.details) == (grpc.StatusCode.OUT_OF_RANGE, "too far")
    assert (second.plain, second.mark) == (first.plain, "replayed")


async def test_abort_with_ok(serve: Servers) -> None:
    """``abort(OK)`` is a mistake that reaches the client at once (4.7)."""

    async def do(_request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.OK, "fine")

    service = await serve({"Do": do})
    assert (await service.call("Do", key=new_key(), timeout=5)).status is UNKNOWN


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


async def test_a_streams_exception_text_never_leaves(serve: Servers) -> None:
    """An exception's text never leaves the server, from an un-keyed streaming method either (4.7)."""

    async def writes(_request: Any, context: Any) -> None:
        await context.write(b"one")
        raise LookupError("password=hunter2")

    def yields(_request: Any, _context: Any) -> Any:
        yield b"one"
        raise LookupError("password=hunter2")

    service = await serve({"Do": Counting()}, attach=False)
    stream: Any = writes if serve.kind == "async" else yields
    handlers: dict[str, Any] = {"Do": grpc.unary_stream_rpc_method_handler(stream)}
    service.server.add(grpc.method_handlers_generic_handler("test.Streams", handlers))
    multi: Any = service.channel.unary_stream("/test.Streams/Do")
    call = multi(b"")
    with pytest.raises(grpc.aio.AioRpcError):
        [message async for message in call]
    assert await call.code() is UNKNOWN
    assert "hunter2" not in await call.details()
    assert "internal error" in await call.details()
