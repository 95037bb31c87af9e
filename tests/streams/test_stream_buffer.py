"""The buffer of a server-stream by itself: order, completeness, bounded memory (4.3, 4.8)."""

from collections.abc import Iterator
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpc_idempotency._server import buffer as _buffer
from grpc_idempotency._server.buffer import StreamBuffer
from grpc_idempotency._wire.framing import frame, unframe

WINDOW = 64
FRAME = 4
LARGEST = 50

appends = st.tuples(st.just("append"), st.integers(0, LARGEST))
others = st.tuples(st.sampled_from(["join", "read", "read", "read all", "leave"]), st.integers(0, 3))
steps = st.lists(st.one_of(appends, others), max_size=120)


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    """A small window, so that few messages are many."""
    with mock.patch.object(_buffer, "WINDOW", WINDOW):
        yield


class Model:
    """What a buffer has to do, at length: all messages, and how many each follower has had."""

    def __init__(self, limit: int) -> None:
        self.buffer = StreamBuffer(limit)
        self._limit = limit
        self._messages: list[bytes] = []
        self._had: dict[int, int] = {}

    @property
    def fits(self) -> bool:
        return len(frame(self._messages)) <= self._limit

    def append(self, size: int) -> None:
        if self.buffer.full:
            return  # a handler waits then
        message = bytes([len(self._messages) % 256]) * size
        self._messages.append(message)
        self.buffer.append(message)

    def join(self, who: int) -> None:
        if who in self._had:
            return
        assert self.buffer.join(who) == self.fits
        if self.fits:
            self._had[who] = 0

    def read(self, who: int) -> bool:
        if who not in self._had:
            return False
        message = self.buffer.read(who)
        if message is None:
            assert self._had[who] == len(self._messages)
            return False
        assert message == self._messages[self._had[who]]
        self._had[who] += 1
        return True

    def read_all(self, who: int) -> None:
        while self.read(who):
            pass

    def leave(self, who: int) -> None:
        self.buffer.leave(who)
        self._had.pop(who, None)

    def check(self) -> None:
        assert self.buffer.retained == self.fits
        assert self.buffer.whole() == (frame(self._messages) if self.fits else None)
        assert len(self.buffer._frames) <= max(self._limit, WINDOW) + FRAME + LARGEST
        if all(had == len(self._messages) for had in self._had.values()):
            assert not self.buffer.full, "the handler waits for nobody"


@given(steps=steps, limit=st.integers(0, 400))
def test_any_interleaving(steps: list[tuple[str, int]], limit: int) -> None:
    """Each follower gets all messages, in order, whatever the order of appends, joins, reads and leaves (4.3, 4.8).

    What is buffered stays within the limit, or the window, and one message; a handler never waits for nobody.
    """
    model = Model(limit)
    for step, number in steps:
        getattr(model, step.replace(" ", "_"))(number)
        model.check()
    for who in list(model._had):
        model.read_all(who)
    model.check()


def test_what_nobody_follows_is_forgotten() -> None:
    """Beyond the limit, without a follower, nothing is kept at all (4.8)."""
    buffer = StreamBuffer(100)
    for _ in range(10_000):
        buffer.append(b"x" * 50)
        assert not buffer.full
    assert (len(buffer._frames), buffer.whole(), buffer.join(object())) == (0, None, False)


def test_the_slowest_decides() -> None:
    """Beyond the limit the slowest follower holds the handler up, and only while it follows (4.8)."""
    buffer, quick, slow = StreamBuffer(0), "quick", "slow"
    assert buffer.join(quick)
    assert buffer.join(slow)
    count = 0
    while not buffer.full:
        buffer.append(b"x" * 10)
        count += 1
    while buffer.read(quick) is not None:
        pass
    assert (buffer.full, count) == (True, 5)
    buffer.leave(slow)
    assert (buffer.full, buffer.join(slow)) == (False, False)
    assert len(buffer._frames) == 0


@given(st.lists(st.binary(max_size=300)))
def test_frames(messages: list[bytes]) -> None:
    """Framed messages come apart as they were, empty ones too (3.2, 4.7)."""
    assert list(unframe(frame(messages))) == messages


@given(st.lists(st.binary(max_size=5), max_size=4), st.lists(st.binary(max_size=5), max_size=4))
def test_frames_tell_streams_apart(one: list[bytes], other: list[bytes]) -> None:
    """Two streams have equal frames only if they are equal: ``a`` + ``bc`` is not ``ab`` + ``c`` (3.2)."""
    assert (frame(one) == frame(other)) == (one == other)
