"""What a handler says that gRPC can't send is refused in the handler, where gRPC fails later or not at all (4.7).

A bare server leaves the client of such a handler without an answer, answers INTERNAL, or ends its process.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from ..harness.handlers import ALL_KINDS
from .acting import Act, Scene, Theatre, act

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOT_FOUND = grpc.StatusCode.NOT_FOUND


def generated() -> Any:
    return ((name, "v") for name in ("x-t",))


VALUES: tuple[Any, ...] = (["a"], {}, 5, 1.5)
BINARY: tuple[Any, ...] = (bytearray(b"x"), memoryview(b"x"), None, 5)
ENTRIES: list[Any] = [
    *(("x-t", value) for value in ("\ud800", "é", "a\nb", "a\tb", "\x7f", "\0")),
    ("x-t", b"\xff"),
    *((name, "v") for name in ("", "X-Upper", "x t", "x-é", ":status", "x*t", "x+t", "\ud800")),
    ("x-t-bin", "text"),
    ("grpc-timeout", "1S"),
]
ON_THREADS: list[Any] = [
    *(("x-t", value) for value in VALUES),
    *(("x-t-bin", value) for value in BINARY),
    *((5, "v"), (None, "v"), ("x-t",), ("x-t", "v", "w"), None, 5),
]


def refused(kind: str) -> list[Act]:
    entries = ENTRIES + (ON_THREADS if kind == "sync" else [])
    acts = [act("set_trailing_metadata", (entry,)) for entry in entries]
    acts += [act("send_initial_metadata", (entry,)) for entry in ENTRIES]
    acts += [act("set_compression", "gzip"), act("set_details", "\ud800")]
    if kind == "sync":
        acts += [act("set_trailing_metadata", metadata) for metadata in (5, "ab", {"x-t": "v"}, generated)]
        acts += [act("abort_with_status", _Status(trailers)) for trailers in (5, (("x-t", "é"),))]
        acts.append(act("send_initial_metadata", generated))
    else:
        acts += [act("abort", NOT_FOUND, "gone", (entry,)) for entry in [*ENTRIES, ("x-t", 5), None]]
        acts += [act("abort", NOT_FOUND, "\ud800"), act("abort", grpc.StatusCode.OK, "fine"), act("abort", 0)]
    if kind == "async":
        acts += [act("abort_with_status", _Status(trailers)) for trailers in (None, 5, (("x-t", "é"),))]
    return acts


class _Status(grpc.Status):
    code, details = NOT_FOUND, "gone"

    def __init__(self, trailing_metadata: Any) -> None:
        self.trailing_metadata = trailing_metadata


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ALL_KINDS)
async def theatre(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Theatre]:
    theatre = Theatre(request.param)
    logging.disable(logging.CRITICAL)
    async with AsyncExitStack() as stack:
        stack.callback(logging.disable, logging.NOTSET)
        await theatre.open(stack, tmp_path_factory.mktemp("refused"))
        yield theatre


@pytest.mark.parametrize("shape", ["one", "many"])
async def test_it_changes_nothing(theatre: Theatre, shape: str) -> None:
    """A handler that catches the error goes on as if it had said nothing, and its answer is kept."""
    before = (act("set_trailing_metadata", (("x-a", "1"),)), act("say", b"one"))
    for one in refused(theatre.kind):
        told, first, second = await theatre.keyed(shape, Scene((*before[:1], one, *before[1:])))
        raised = [seen[1][0] for seen in told.seen if isinstance(seen, tuple) and seen[1][0].endswith("Error")]
        assert raised in (["TypeError"], ["ValueError"], ["UnicodeEncodeError"]), one
        messages = (b"reply",) if shape == "one" else (b"one",)
        heard = (first.status, first.messages, first.plain.trailers, first.mark)
        assert heard == (grpc.StatusCode.OK, messages, (("x-a", "1"),), "executed"), one
        assert (second.status, second.messages, second.plain.trailers, second.mark) == (*heard[:3], "replayed"), one


async def test_it_ends_a_handler_that_does_not_expect_it(theatre: Theatre) -> None:
    """Otherwise the call fails at once as with any exception, and that failure is kept."""
    for one in refused(theatre.kind):
        _, first, second = await theatre.keyed("one", Scene((one,), "let"))
        assert (first.status, first.details, first.mark) == (grpc.StatusCode.UNKNOWN, "internal error", "executed"), one
        assert (second.status, second.details, second.mark) == (first.status, first.details, "replayed"), one
