"""A handler can't tell from its context whether its call is keyed, and neither can its client (2.4, 4.7).

The reference is a bare server of the same kind. What differs by design:

- an exception's text never leaves the server: the message that the handler set takes its place, or "internal error";
- an exception that follows ``set_code(OK)`` is UNKNOWN, where grpc.server would send OK without a message;
- what gRPC takes from a handler and then fails to send is refused in the handler: ``test_what_cant_be_sent``;
- ``cancel()`` on grpc.server ends the call when its handler has ended, and not before.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from ..harness.handlers import ALL_KINDS
from ..harness.replies import STATUS, Reply
from .acting import Act, Performance, Scene, Theatre, act

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOT_FOUND, INTERNAL, OK = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INTERNAL, grpc.StatusCode.OK


class Status(grpc.Status):
    def __init__(self, code: Any, details: Any, trailing_metadata: Any) -> None:
        self.code, self.details, self.trailing_metadata = code, details, trailing_metadata


class Unhashable:
    __hash__ = None  # type: ignore[assignment]  # that is what it is for


def trailers(*entries: Any) -> Act:
    return act("set_trailing_metadata", entries)


def generated() -> Any:
    return ((name, "v") for name in ("x-t",))


SHAPES = ["one", "many", "gathered", "written"]
CODES = [NOT_FOUND, OK, grpc.StatusCode.CANCELLED, 5, 0, 16, 99, -1, True, None, "NOT_FOUND"]
ABORTS = [NOT_FOUND, INTERNAL, grpc.StatusCode.UNAVAILABLE, 5, 16, "NOT_FOUND"]

SIMPLE = [
    *(act(name) for name in ("code", "details", "trailing_metadata", "time_remaining", "invocation_metadata")),
    *(act(name) for name in ("peer_identities", "peer_identity_key", "auth_context")),
    act("add_callback", lambda: print),
    act("add_done_callback", lambda: print),
    act("disable_next_message_compression"),
    act("set_compression", grpc.Compression.Gzip),
    act("set_compression", None),
    *(act("set_code", code) for code in CODES),
    *(act("set_details", details) for details in ("", "said", "ümlaut\n%", b"bytes", None, 5)),
    *(act("abort", code, "aborted") for code in ABORTS),
    *(act("abort", NOT_FOUND, details) for details in ("", None, b"bytes", 5)),
    act("abort", NOT_FOUND),
    act("abort", NOT_FOUND, "aborted", (("x-b", "2"),)),
    act("abort", NOT_FOUND, "aborted", [("x-b", "2")]),
    act("abort_with_status", Status(NOT_FOUND, "status", (("x-c", "3"), ("x-c-bin", b"\0")))),
    act("abort_with_status", Status(NOT_FOUND, "status", ())),
    act("abort_with_status", 5),
    act("send_initial_metadata", (("x-i", "1"), ("x-i-bin", b"\0"))),
    act("send_initial_metadata", [("x-i", "2")]),
    act("send_initial_metadata", (("x-i", 5),)),
    act("send_initial_metadata", {"x-i": "1"}),
    act("send_initial_metadata", None),
    trailers(),
    trailers(("x-t", "v"), ("x-t", "w"), ("x_t.1", ""), ("x-t", " v ")),
    trailers(("x-t-bin", b"\0\xff"), ("x-t-bin", b""), ("-bin", b"x"), ("grpc-status-details-bin", b"x")),
    trailers(("x-t", b"raw")),
    trailers(("grpc-status", "3"), ("grpc-message", "m"), ("grpc-foo", "f"), ("content-type", "c"), ("te", "t")),
    act("set_trailing_metadata", [("x-t", "list")]),
    act("set_trailing_metadata", grpc.aio.Metadata(("x-t", "v"), ("x-t", "w"))),
    act("set_trailing_metadata", [["x-t", "list of lists"]]),
    act("set_trailing_metadata", None),
    act("set_trailing_metadata", {}),
    act("set_trailing_metadata", ""),
    trailers("ab"),
    trailers((b"x-t", "v")),
    trailers(("x-t", None)),
    act("say", b"one"),
    act("say", b""),
]
"""What gRPC answers or refuses on every kind of server, in any order."""

ON_ASYNCIO = [
    *(act("set_trailing_metadata", metadata) for metadata in (5, "ab", {"x-t": "v"}, generated)),
    *(trailers(("x-t", value)) for value in (["a"], 5)),
    *(trailers(("x-t-bin", value)) for value in (bytearray(b"x"), memoryview(b"x"), None)),
    *(trailers(entry) for entry in ((5, "v"), (None, "v"), ("x-t",), ("x-t", "v", "w"), None)),
    act("send_initial_metadata", generated),
    act("set_code", []),
]
ON_THREADS = [act("abort", OK, "ok"), act("abort", 0, "zero"), act("abort", None, "none")]


def acts(kind: str) -> list[Act]:
    return SIMPLE + (ON_THREADS if kind == "sync" else ON_ASYNCIO)


def alone(kind: str) -> list[Scene]:
    """Each act by itself."""
    return [Scene((one,)) for one in acts(kind)]


def twice(kind: str) -> list[Scene]:
    """Each act twice, and before an exception."""
    return [scene for one in acts(kind) for scene in (Scene((one, one)), Scene((one,), "raise"))]


def among_others(kind: str) -> list[Scene]:
    """Each act behind others and between two messages."""
    early = (act("set_details", "early"), trailers(("x-a", "1")), act("say", b"a"))
    return [Scene((*early, one, act("say", b"b"))) for one in acts(kind)]


def stories(_kind: str) -> list[Scene]:
    """Scenes that have a story."""
    told = [Scene(), Scene(end="raise")]
    aborted = act("abort", NOT_FOUND, "aborted")
    later = (act("set_code", INTERNAL), act("set_details", "late"), trailers(("x-l", "1")))
    told += [
        Scene((aborted, *later)),
        Scene((aborted, *later), "raise"),
        Scene((aborted, act("abort", INTERNAL, "again"))),
        Scene((act("say", b"a"), aborted, act("say", b"b"))),
        Scene((act("say", b"a"), act("send_initial_metadata", ()), act("set_compression", grpc.Compression.Gzip))),
        Scene((act("set_code", NOT_FOUND), act("set_code", None)), "raise"),
        Scene((act("set_code", OK), act("set_details", "")), "raise"),
    ]
    return told


def expected(performance: Performance, heard: Reply) -> Reply:
    """What is to be heard in place of what a bare server says."""
    if performance.scene.end != "raise":
        return heard
    words = ("Unexpected <class", "Exception calling application", "Exception iterating responses")
    status = grpc.StatusCode.UNKNOWN if heard.status is OK else heard.status
    if heard.details.startswith(words):
        return replace(heard, status=status, details=performance.details or "internal error")
    if heard.status is OK:
        # On grpc.server an empty message is one that was set; on grpc.aio it is none.
        said = performance.details or (performance.details if performance.kind == "sync" else None)
        return replace(heard, status=status, details="internal error" if said is None else said)
    return heard


def playable(kind: str, shape: str, scene: Scene) -> Scene:
    """The scene without what races in gRPC itself: grpc.aio asks a generator on a thread for more while it still sends.

    An abort behind a message then leaves the client without an answer.
    """
    races = {"abort", "send_initial_metadata", "set_compression"} & {one.name for one in scene.acts}
    if (kind, shape) == ("thread", "many") and races:
        return replace(scene, acts=tuple(one for one in scene.acts if one.name != "say"))
    return scene


async def differences(theatre: Theatre, shape: str, scene: Scene) -> list[str]:
    """How keyed and un-keyed calls differ from those of the bare server."""
    scene = playable(theatre.kind, shape, scene)
    wanted, heard = await theatre.bare(shape, scene)
    heard = expected(wanted, heard)
    unkeyed, unkeyed_heard = await theatre.unkeyed(shape, scene)
    nameless, nameless_heard = await theatre.nameless(shape, scene)
    keyed, first, second = await theatre.keyed(shape, scene)
    pairs = [
        ("un-keyed handler", wanted.seen, unkeyed.seen),
        ("keyed handler", wanted.seen, keyed.seen),
        ("un-keyed client", heard, unkeyed_heard),
        ("handler without a request_id", wanted.seen, nameless.seen),
        ("client without a request_id", heard, nameless_heard),
        ("keyed client", replace(heard, trailers=(*heard.trailers, (STATUS, "executed"))), first),
        ("replay", heard.plain, second.plain),
    ]
    return [f"{who} of {shape} {scene}:\n  {want}\n  {got}" for who, want, got in pairs if want != got]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ALL_KINDS)
async def theatre(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Theatre]:
    theatre = Theatre(request.param)
    logging.disable(logging.CRITICAL)  # of a thousand exceptions
    async with AsyncExitStack() as stack:
        stack.callback(logging.disable, logging.NOTSET)
        await theatre.open(stack, tmp_path_factory.mktemp("context"))
        yield theatre


@pytest.mark.parametrize(
    ("shape", "scenes"),
    [
        ("one", alone),
        ("many", among_others),
        *((shape, stories) for shape in SHAPES),
        *(pytest.param(shape, among_others, marks=pytest.mark.slow) for shape in ("one", "gathered", "written")),
        pytest.param("one", twice, marks=pytest.mark.slow),
    ],
)
async def test_each_method(theatre: Theatre, shape: str, scenes: Callable[[str], list[Scene]]) -> None:
    """Each method of a context answers, raises and has the effect that gRPC's own has."""
    if shape not in theatre.shapes:
        pytest.skip("only a handler in a loop writes to its context")
    found = await asyncio.gather(*(differences(theatre, shape, scene) for scene in scenes(theatre.kind)))
    assert not any(found), "\n".join(text for texts in found for text in texts)


@settings(max_examples=settings().max_examples // 5)
@given(data=st.data())
async def test_any_sequence(theatre: Theatre, data: st.DataObject) -> None:
    """Any sequence of calls of a context answers, raises and has the effect that it has on gRPC's own."""
    shape = data.draw(st.sampled_from(theatre.shapes))
    several = st.lists(st.sampled_from(acts(theatre.kind)), max_size=6).map(tuple)
    scene = data.draw(st.builds(Scene, several, st.sampled_from(["return", "return", "raise"])))
    found = await differences(theatre, shape, scene)
    assert not found, "\n".join(found)
