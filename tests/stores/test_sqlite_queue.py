"""The writer's queue: every order in which callers, their loops, the connection's thread and a closing can take turns.

Each actor is a thread that stops before every step on shared state; one at a time is let go on, and every choice of the
next one is tried. So a request that is left behind in some order is found, whatever the machine is doing.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest

from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.stores._calls.requests import THREADS, Request
from grpc_idempotency.stores._sqlite import writer as writer_module
from grpc_idempotency.stores._sqlite.connection import Settings
from grpc_idempotency.stores._sqlite.guard import Guard
from grpc_idempotency.stores._sqlite.queue import Queue
from grpc_idempotency.stores._sqlite.requests import Flush
from grpc_idempotency.stores._sqlite.writer import Writer

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


class SteppedQueue(Queue):
    """Each call of the queue is a step: under its lock nothing can come between."""

    def add(self, request: Any) -> bool:
        pause()
        return super().add(request)

    def close(self) -> bool:
        pause()
        return super().close()

    def closed(self) -> None:
        pause()
        super().closed()

    def take(self) -> list[Any]:
        pause()
        return super().take()

    def ends(self) -> bool:
        pause()
        return super().ends()

    def withdraw(self, chosen: Any) -> list[Any]:
        pause()
        return super().withdraw(chosen)

    def rest(self) -> bool:
        pause()
        return super().rest()


class Connection:
    """The connection's thread: runs the jobs that are posted, one after another."""

    def __init__(self) -> None:
        self.guard = Guard()
        self.jobs: list[Callable[[Any], object]] = []
        self.busy = False
        self.shut_down = False

    def post(self, job: Callable[[Any], object]) -> None:
        pause()
        if not self.shut_down:
            self.jobs.append(job)

    def shut(self, _db: Any) -> None:
        self.shut_down = True
        self.jobs.clear()

    def run(self) -> None:
        while self.jobs:
            self.busy = True
            self.jobs.pop(0)(None)
            self.busy = False


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
    """A future, as far as the writer knows it."""

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


class World:
    """One writer whose connection and callers are played by actors."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        opened: list[Callable[[Any, Any], None]] = []
        monkeypatch.setattr(writer_module, "connect", lambda _path, _settings, then, _after: opened.append(then))
        monkeypatch.setattr(writer_module, "Queue", SteppedQueue)
        monkeypatch.setattr(writer_module, "_LINGER_EACH", 0.0)
        self.connection = Connection()
        self.writer = Writer(
            "/nowhere", Settings(synchronous="FULL", patience=0.0, foreign_keys=False, read_only=False)
        )
        writer: Any = self.writer
        writer._run = self._run
        writer.place.trouble = lambda: None
        self._opened = opened[0]
        self.answers: list[tuple[Loop | None, Answer]] = []
        self.served = 0
        self.actors: list[Actor] = [
            Actor(
                "connection", self._serve, lambda: bool(self.connection.jobs or self.connection.busy) or self.finished
            )
        ]
        self.finished = False

    def open(self, error: Exception | None = None) -> None:
        """The file was opened, or could not be."""
        self._opened(None if error else self.connection, error)

    def _run(self, _db: Any, batch: list[Request[Any]]) -> list[Request[Any]]:
        self.served += len(batch)
        for request in batch:
            request.value = None
        return []

    def _serve(self) -> None:
        while not self.finished:
            self.connection.run()
            pause()

    def ask(self, loop: Loop | None = None) -> None:
        """A caller in this loop, or in a thread, asks for something."""
        self.writer.submit(self._addressed(loop))

    def withdraw(self) -> None:
        """Whoever watches over nested calls refuses all that wait."""
        for request in self.writer._queue.withdraw(lambda _: True):
            writer_module._refuse(request, StoreUnavailable("withdrawn"))

    def close(self) -> None:
        """The last user closes the writer."""
        self.writer.close(self._addressed(None))

    def _addressed(self, loop: Loop | None) -> Flush:
        request = Flush()
        request.error = None
        request.value = None
        request.loop = THREADS if loop is None else loop  # type: ignore[assignment]  # quacks like one
        request.future = Answer()
        self.answers.append((loop, request.future))
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
        world.finished = True
        while choices := world.choices():
            choices[0].step()
        world.check()
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
    assert explore(opened(patch, [in_thread] * asked, [in_thread])) > 100


def test_a_loop_ends_and_another_begins(patch: Callable[[], World]) -> None:
    """The first loop asks and ends, answered or not, while another one begins."""

    def build() -> World:
        world = opened(patch)()
        first, second = Loop(), Loop()
        world.does("first loop", lambda: world.ask(first), first.end)
        world.does("second loop", lambda: world.ask(second))
        return world

    assert explore(build) > 100


@more
def test_the_writer_closes_meanwhile(patch: Callable[[], World], asked: int) -> None:
    """What comes before the closing is answered, what comes after it is refused; nobody is left waiting."""
    assert explore(opened(patch, [in_thread] * asked, [World.close])) > 100


@more
def test_requests_are_withdrawn(patch: Callable[[], World], asked: int) -> None:
    """Each is answered once, by whoever has taken it; an empty queue is no closing one."""
    assert explore(opened(patch, [in_thread] * asked, [World.withdraw, in_thread])) > 100


def test_requests_are_withdrawn_while_the_writer_closes(patch: Callable[[], World]) -> None:
    """Nor does a closing wait for them."""
    assert explore(opened(patch, [in_thread, World.close], [World.withdraw])) > 100


@more
def test_the_file_can_not_be_opened(patch: Callable[[], World], asked: int) -> None:
    """All are refused, those too who ask while others are refused."""

    def build() -> World:
        world = patch()
        world.does("opening", lambda: world.open(StoreUnavailable("it can't be opened")))
        world.does("caller", *[world.ask] * asked)
        world.does("closing", world.close)
        return world

    assert explore(build) > 100


def test_the_explorer_finds_a_request_that_is_left_behind(
    patch: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue that looks for requests and rests in two steps loses one that comes between them."""

    def rest_in_two_steps(self: SteppedQueue) -> bool:
        pause()
        empty = not self._requests
        pause()
        self._scheduled = not empty or self._closing
        return not self._scheduled

    monkeypatch.setattr(SteppedQueue, "rest", rest_in_two_steps)
    with pytest.raises(AssertionError):
        explore(opened(patch, [in_thread], [in_thread]))
    monkeypatch.undo()
