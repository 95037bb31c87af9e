"""The writer's inbox: every order in which callers, their loops, the connection's thread and a closing can take turns.

Each actor is a thread that stops before every step on shared state; one at a time is let go on, and every choice of the
next one is tried. So a request that is left behind in some order is found, whatever the machine is doing.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest

from grpc_idempotency.errors import StoreError, StoreUnavailable
from grpc_idempotency.stores._calls.requests import Gathering, Request
from grpc_idempotency.stores._sqlite import writer as writer_module
from grpc_idempotency.stores._sqlite.connection import Settings
from grpc_idempotency.stores._sqlite.guard import Guard
from grpc_idempotency.stores._sqlite.requests import Flush
from grpc_idempotency.stores._sqlite.writer import Inbox, Writer

MOST = 50_000
"""More schedules than any of these scenarios has."""


class Actor(threading.Thread):
    """Does its work step by step, each when it is told to."""

    def __init__(self, name: str, work: Callable[[], None], enabled: Callable[[], bool] = lambda: True) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self.enabled = enabled
        """Whether it can go on now; it is asked between two steps."""
        self.over = False
        self.error: BaseException | None = None
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)

    def run(self) -> None:
        self._go.acquire()
        try:
            self._work()
        except BaseException as error:
            self.error = error
        self.over = True
        self._stopped.release()

    def pause(self) -> None:
        """Called by the actor itself, before a step."""
        self._stopped.release()
        self._go.acquire()

    def step(self) -> None:
        """Lets it go on to its next pause, or its end."""
        self._go.release()
        self._stopped.acquire()
        if self.error is not None:
            raise self.error


def pause() -> None:
    """Stops the current actor before a step; the test's own thread goes on."""
    actor = threading.current_thread()
    if isinstance(actor, Actor):
        actor.pause()


class SteppedLock:
    """Taking the lock is a step: under it nothing can come between but what is added."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        pause()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class SteppedInbox(Inbox):
    """Each addition, each blocking wait and each time that the lock is taken is a step."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = SteppedLock()  # type: ignore[assignment]  # quacks like one
        self.add = self._add
        self.asleep = False
        """Whether the thread is blocked until something is added."""
        self.over = False
        """Whether the thread is to be let go, since nothing will be added any more."""

    def _add(self, request: Any) -> None:
        pause()
        self._added.put(request)

    def close(self) -> None:
        pause()
        self._closing = True
        self._added.put(None)

    def take(self) -> list[Any] | None:
        if not self._first and not self._closing:
            self.asleep = True
            pause()
            self.asleep = False
        if self.over:
            raise Over
        return super().take()

    def wakes(self) -> bool:
        """Whether the thread has something to do."""
        return not self.asleep or not self._added.empty() or self.over


class Over(Exception):
    """Ends a thread that would wait for ever."""


class SteppedWriter(Writer):
    """A writer whose word on its failure is shared state, too."""

    _failure: StoreError | None = None
    ends = True
    """Whether it comes to its end at all."""

    @property
    def failure(self) -> StoreError | None:
        if self.ends and self._failure is None:  # once set, it stays
            pause()
        return self._failure

    @failure.setter
    def failure(self, failure: StoreError | None) -> None:
        pause()
        self._failure = failure


class Connection:
    """What SQLite's connection is to the writer."""

    def __init__(self) -> None:
        self.guard = Guard()

    def close(self) -> None:
        pass


class Loop:
    """A caller's event loop, which may end before its answers come."""

    def __init__(self) -> None:
        self.open = True
        self.callbacks: list[Callable[[], object]] = []

    def call_soon_threadsafe(self, do: Callable[..., object], *args: object) -> None:
        pause()
        if not self.open:
            raise RuntimeError("Event loop is closed")
        do(*args)

    def end(self) -> None:
        pause()
        self.open = False


class Answer:
    """What a caller waits for, a future or a lock, as far as the writer knows it."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def done(self) -> bool:
        return bool(self.told)

    def set_result(self, value: object) -> None:
        self.told.append(value)

    def set_exception(self, error: BaseException) -> None:
        self.told.append(error)

    def cancel(self) -> None:
        self.told.append("cancelled")

    def release(self) -> None:
        self.told.append("released")


class World:
    """One writer whose thread and callers are played by actors."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        openings: list[tuple[Callable[[Any], None], Callable[[Exception], None]]] = []
        monkeypatch.setattr(
            writer_module, "connect", lambda _, __, serve, failed, ___: openings.append((serve, failed))
        )
        monkeypatch.setattr(writer_module, "Inbox", SteppedInbox)
        monkeypatch.setattr(Gathering, "LINGER_EACH", 0.0)
        monkeypatch.setattr(Gathering, "STEP", 0.0)
        self.writer = SteppedWriter(
            "/nowhere", Settings(synchronous="FULL", patience=0.0, foreign_keys=False, read_only=False)
        )
        writer: Any = self.writer
        writer._run = self._run
        writer.place.trouble = lambda: None
        self.inbox: SteppedInbox = writer._inbox
        self._serve, self._failed = openings[0]
        self.answers: list[tuple[Loop | None, Answer]] = []
        self.served = 0
        self.actors: list[Actor] = []

    def open(self) -> None:
        """The file was opened: the connection's thread begins to serve it."""
        self.actors.append(Actor("connection", self._serves, self.inbox.wakes))

    def fail(self) -> None:
        """The file could not be opened."""
        self._failed(StoreUnavailable("it can't be opened"))

    def finish(self) -> None:
        """Lets the connection's thread go."""
        self.inbox.over = True

    def _serves(self) -> None:
        connection: Any = Connection()
        self._serve(connection)

    def _run(self, _db: Any, batch: list[Request[Any]]) -> list[Request[Any]]:
        """Answers all but the last, if there are several: there was no time for that one."""
        done, left = (batch, []) if len(batch) == 1 else (batch[:-1], batch[-1:])
        self.served += len(done)
        for request in done:
            request.value = None
        return left

    def ask(self, loop: Loop | None = None) -> None:
        """A caller in this loop, or in a thread, asks for something."""
        self.writer.submit(self._addressed(loop))

    def withdraw(self) -> None:
        """Whoever watches over nested calls refuses all that wait."""
        for request in self.inbox.withdraw(lambda _: True):
            writer_module._refuse(request, StoreUnavailable("withdrawn"))

    def withdraw_none(self) -> None:
        """The watch looks whether a call is nested, and finds none."""
        assert self.inbox.withdraw(lambda _: False) == []

    def close(self) -> None:
        """The last user closes the writer."""
        self.writer.close(self._addressed(None))

    def _addressed(self, loop: Loop | None) -> Flush:
        request = Flush()
        request.error = None
        request.value = None
        request.loop = loop  # type: ignore[assignment]  # quacks like one
        request.waiter = Answer()
        self.answers.append((loop, request.waiter))
        return request

    def does(self, name: str, *steps: Callable[[], None]) -> None:
        """Adds an actor who does this, one after another."""

        def work() -> None:
            for step in steps:
                step()

        self.actors.append(Actor(name, work))

    def choices(self) -> list[Actor]:
        return [actor for actor in self.actors if not actor.over and actor.enabled()]

    def check(self) -> None:
        """Nobody is left waiting who is still there, and everybody is told once."""
        for loop, answer in self.answers:
            if loop is None or loop.open:
                assert len(answer.told) == 1
            assert len(answer.told) <= 1


def explore(build: Callable[[], World]) -> int:
    """Plays every schedule of the world's actors; returns how many there are."""
    prefix: list[int] = []
    for count in range(1, MOST):
        world = build()
        for actor in world.actors:
            actor.start()
        taken: list[tuple[int, int]] = []
        while choices := world.choices():
            at = prefix[len(taken)] if len(taken) < len(prefix) else 0
            taken.append((at, len(choices)))
            choices[at].step()
        try:
            world.check()
        finally:
            world.finish()
            while choices := world.choices():
                choices[0].step()
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        if not taken:
            return count
        prefix = [at for at, _ in taken[:-1]] + [taken[-1][0] + 1]
    raise AssertionError("there are more schedules than expected")


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], World]]:
    worlds: list[World] = []

    def build() -> World:
        worlds.append(World(monkeypatch))
        return worlds[-1]

    yield build
    with suppress(IndexError):
        assert all(actor.over for actor in worlds[-1].actors)


def opened(build: Callable[[], World], *asked: Sequence[Callable[[World], None]]) -> Callable[[], World]:
    """A world whose file is open, and where each of these lists is what one actor does."""

    def world() -> World:
        made = build()
        made.writer.ends = any(World.close in steps for steps in asked)
        made.open()
        for number, steps in enumerate(asked):
            made.does(f"caller {number}", *(lambda step=step: step(made) for step in steps))
        return made

    return world


def in_thread(world: World) -> None:
    world.ask()


more = pytest.mark.parametrize("asked", [1, pytest.param(2, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])


@more
def test_every_request_is_answered(patch: Callable[[], World], asked: int) -> None:
    """Two callers, one of whom may ask twice."""
    assert explore(opened(patch, [in_thread] * asked, [in_thread])) > 20


@pytest.mark.slow
def test_a_loop_ends_and_another_begins(patch: Callable[[], World]) -> None:
    """The first loop asks and ends, answered or not, while another one begins."""

    def build() -> World:
        world = opened(patch)()
        first, second = Loop(), Loop()
        world.does("first loop", lambda: world.ask(first), first.end)
        world.does("second loop", lambda: world.ask(second))
        return world

    assert explore(build) > 20


@more
def test_the_writer_closes_meanwhile(patch: Callable[[], World], asked: int) -> None:
    """What comes before the closing is answered, what comes after it is refused; nobody is left waiting."""
    assert explore(opened(patch, [in_thread] * asked, [World.close])) > 20


@more
def test_requests_are_withdrawn(patch: Callable[[], World], asked: int) -> None:
    """Each is answered once, by whoever has taken it; an empty queue is no closing one."""
    assert explore(opened(patch, [in_thread] * asked, [World.withdraw, in_thread])) > 20


@more
def test_requests_keep_their_places(patch: Callable[[], World], asked: int) -> None:
    """Those that a withdrawal does not choose are answered as if there had been none."""
    assert explore(opened(patch, [in_thread] * asked, [World.withdraw_none, in_thread])) > 20


@pytest.mark.slow
def test_requests_are_withdrawn_while_the_writer_closes(patch: Callable[[], World]) -> None:
    """Nor does a closing wait for them."""
    assert explore(opened(patch, [in_thread, World.close], [World.withdraw])) > 20


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("asked", [1, 2])
def test_the_file_can_not_be_opened(patch: Callable[[], World], asked: int) -> None:
    """All are refused, those too who ask while others are refused."""

    def build() -> World:
        world = patch()
        world.does("opening", world.fail)
        world.does("caller", *[world.ask] * asked)
        world.does("closing", world.close)
        return world

    assert explore(build) > 20


def test_the_explorer_finds_a_request_that_is_left_behind(
    patch: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A withdrawal that does not wake the thread leaves behind what it has not chosen."""

    def quietly(self: SteppedInbox, chosen: Any) -> list[Any]:
        with self._lock:
            while not self._added.empty():
                self._first.append(self._added.get_nowait())  # type: ignore[arg-type]  # no wake-up is there
        return []

    monkeypatch.setattr(SteppedInbox, "withdraw", quietly)
    with pytest.raises(AssertionError):
        explore(opened(patch, [in_thread], [World.withdraw_none]))
    monkeypatch.undo()
