"""The poller of each wing: one query in each round, only while calls wait, and at once when the store tells of a change
(4.3).
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from typing import Any

import pytest

from grpc_idempotency import State
from grpc_idempotency._server.aio import poller as aio_poller
from grpc_idempotency._server.sync import poller as sync_poller
from grpc_idempotency.errors import StoreUnavailable
from grpc_idempotency.records import Standing

from ..harness.waiting import until

SOON = 30.0
RUNNING = Standing(fence=b"theirs", state=State.RUNNING, lapsed=False)
ENDED = Standing(fence=b"theirs", state=State.COMPLETED, lapsed=False)


class Store:
    """Tells the standings that it is given, and of changes if ``tells``."""

    def __init__(self) -> None:
        self.standings: dict[bytes, Standing] = {b"one": RUNNING, b"two": RUNNING}
        self.asked: list[Collection[bytes]] = []
        self.error: Exception | None = None
        self.changed: Callable[[], object] | None = None
        self.subscribed = threading.Event()
        self.unsubscribed = threading.Event()

    def standing(self, names: Collection[bytes]) -> Any:
        self.asked.append(names)
        if self.error is not None:
            raise self.error
        return {name: self.standings[name] for name in names}

    def subscribe(self, changed: Callable[[], object]) -> Callable[[], object]:
        self.changed = changed
        self.subscribed.set()
        return self.unsubscribed.set


class AwaitedStore(Store):
    async def standing(self, names: Collection[bytes]) -> Mapping[bytes, Standing]:
        found: Mapping[bytes, Standing] = Store.standing(self, names)
        return found


class Rig:
    """A poller of either kind, whose waits are awaited."""

    def __init__(self, kind: str) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.store = AwaitedStore() if kind == "async" else Store()
        self.poller: Any
        if kind == "async":
            self.poller = aio_poller.Poller(self.store, self._spawn)  # type: ignore[arg-type]  # all that it asks for
        else:
            self.poller = sync_poller.Poller(self.store)  # type: ignore[arg-type]  # as above

    def wait(self, name: bytes, seconds: float = SOON) -> "asyncio.Future[bool]":
        until = time.monotonic() + seconds
        if isinstance(self.poller, aio_poller.Poller):
            return asyncio.ensure_future(self.poller.wait(name, b"theirs", until))
        return asyncio.ensure_future(asyncio.to_thread(self.poller.wait, name, b"theirs", until))

    def _spawn(self, work: Coroutine[Any, Any, None], then: Callable[[], None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)

        def ended(task: "asyncio.Task[None]") -> None:
            self.tasks.discard(task)
            then()
            if not task.cancelled():
                task.exception()

        task.add_done_callback(ended)

    async def close(self) -> None:
        if isinstance(self.poller, sync_poller.Poller):
            await asyncio.to_thread(self.poller.close)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture(params=["async", "sync"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    rig = Rig(request.param)
    yield rig
    await rig.close()


@pytest.fixture
def rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll is due once in an hour."""
    monkeypatch.setattr(aio_poller, "uniform", lambda *_: 72_000)
    monkeypatch.setattr(sync_poller, "jittered", lambda _: 3600)


async def seen(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, SOON)


async def test_all_waits_share_a_query(rig: Rig) -> None:
    """A round asks once for all names; a wait ends when its own run has ended."""
    waits = [rig.wait(name) for name in (b"one", b"two") * 2]

    async def asked_for_both() -> bool:
        return len(set(rig.store.asked[-1])) == 2 if rig.store.asked else False

    await until(asked_for_both)
    rig.store.standings[b"one"] = ENDED
    assert await asyncio.gather(*waits[::2]) == [True] * 2
    assert not any(wait.done() for wait in waits[1::2])
    rig.store.standings[b"two"] = ENDED
    assert await asyncio.gather(*waits[1::2]) == [True] * 2
    assert all(set(names) <= {b"one", b"two"} for names in rig.store.asked)


@pytest.mark.usefixtures("rarely")
async def test_a_store_that_tells_of_changes_is_asked_at_once(rig: Rig) -> None:
    """The wait ends by the store's word, long before the next poll is due. With the last wait the subscription ends."""
    wait = rig.wait(b"one")
    await seen(rig.store.subscribed)
    assert rig.store.changed is not None
    rig.store.standings[b"one"] = ENDED
    await asyncio.to_thread(rig.store.changed)
    assert await wait
    await seen(rig.store.unsubscribed)
    rig.store.changed()  # too late, and in vain


@pytest.mark.usefixtures("rarely")
async def test_polling_ends_with_the_last_wait(rig: Rig) -> None:
    """A wait whose time is up is told so; then nothing polls. The next wait begins anew."""
    for _ in range(2):
        rig.store.unsubscribed.clear()
        assert await rig.wait(b"one", 0.001) is False
        await seen(rig.store.unsubscribed)
    assert rig.store.asked == []


async def test_waits_do_not_hang_on_a_store_that_fails(rig: Rig) -> None:
    """Whatever it raises ends the waits, so that the calls look at the store themselves. Later waits poll again."""
    for error in (StoreUnavailable("down"), RuntimeError("a bug")):
        rig.store.error = error
        assert await rig.wait(b"one")
    rig.store.error, rig.store.standings[b"one"] = None, ENDED
    assert await rig.wait(b"one")


@pytest.mark.usefixtures("rarely")
async def test_a_poller_that_closes_ends_its_waits(rig: Rig) -> None:
    """At the server's end no call waits on."""
    wait = rig.wait(b"one")
    await seen(rig.store.subscribed)
    await rig.close()
    assert await wait
    if isinstance(rig.poller, sync_poller.Poller):
        assert await rig.wait(b"one") is False


async def test_a_store_that_fails_to_subscribe_is_polled(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """Its calls end by polls."""

    def fails(changed: object) -> Callable[[], object]:
        raise OSError("no connection")

    rig.store.subscribe = fails  # type: ignore[method-assign]  # a store whose messages are down
    rig.store.standings[b"one"] = ENDED
    assert await rig.wait(b"one")
    assert "waiting calls learn of changes by polls" in caplog.text
