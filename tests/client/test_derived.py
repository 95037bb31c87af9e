"""Calls that a keyed handler makes carry keys that every run of the operation has again (5.3)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import ConcurrentCalls
from grpc_idempotency._operation.scope import Scope, scope_of
from grpc_idempotency.retrying import AsyncRetrying
from grpc_idempotency.transactions import running_operation

from ..harness.handlers import Blocking, Counting
from ..harness.replies import KEY, text
from .net import Client, Net, Server

Outer = Callable[[Client, int], Awaitable[object]]


class Services:
    """A service whose handler calls another one; its operation runs until the handler does not fail any more."""

    def __init__(self, net: Net, below: Server, outer: Outer, fails: int) -> None:
        self._net = net
        self._below = below
        self._outer = outer
        self._fails = fails
        self.runs = 0
        self.server: Server

    async def start(self) -> "Services":
        client = await self._net.client(self._below.target)

        async def do(request: StringValue, context: Any) -> StringValue:
            self.runs += 1
            done = await self._outer(client, self.runs)
            if self.runs <= self._fails:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "run me again")
            return text(str(done))

        self.server = await self._net.serve({"Do": do})
        return self

    async def run(self, key: str | None = "the-key") -> str:
        """Calls until an answer comes, as a client that retries does."""
        client = await self._net.client(self.server.target, plain=True)
        metadata = ((KEY, key),) if key is not None else ()
        while True:
            try:
                return (await client.call("Do", "x", metadata=metadata)).texts[0]
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise


async def start(net: Net, below: Server, outer: Outer, *, fails: int = 0) -> Services:
    return await Services(net, below, outer, fails).start()


def step(name: str, operation: Any = None) -> Any:
    operation = operation or running_operation()
    assert operation is not None
    return operation.scope.child(name).opened()


async def test_two_runs_have_the_same_keys(net: Net) -> None:
    """The keys of two runs are the same, so that what the first run did is replayed and not done again."""
    counting = Counting()
    below = await net.serve({"Do": counting, "Other": counting})

    async def outer(client: Client, _run: int) -> list[str]:
        texts = [(await client.call("Do", "a")).texts, (await client.call("Do", "a")).texts]
        texts.append((await client.call("Other", "a")).texts)
        for name in ("one", "two"):
            with step(name):
                texts.append((await client.call("Do", "a")).texts)
        return [one for (one,) in texts]

    services = await start(net, below, outer, fails=1)
    answer = await services.run()
    keys = below.seen.of()
    assert (services.runs, counting.runs, len(keys)) == (2, 5, 10)
    assert keys[:5] == keys[5:], "the same in both runs"
    assert len(set(keys)) == 5, "another for each number, method and step"
    assert answer == str([f"a run {number}" for number in range(1, 6)])


async def test_another_operation_has_other_keys(net: Net) -> None:
    """Derived keys follow from the operation, and tell nothing of its key."""
    below = await net.serve({"Do": Counting()})

    async def outer(client: Client, _run: int) -> object:
        return await client.call("Do", "a")

    services = await start(net, below, outer)
    await services.run("key-of-one")
    await services.run("key-of-another")
    one, another = below.seen.of()
    assert one != another
    for key in (one, another):
        assert key is not None
        assert key.startswith("d1-")
        assert "key-of" not in key


async def test_an_unkeyed_handler_has_new_keys(net: Net) -> None:
    """Where the call has no key, those that its handler makes are new each time."""
    below = await net.serve({"Do": Counting()})

    async def outer(client: Client, _run: int) -> object:
        return await client.call("Do", "a")

    services = await start(net, below, outer)
    await services.run(None)
    await services.run(None)
    one, another = below.seen.of()
    assert one != another
    assert not str(one).startswith("d1-")


async def test_a_callers_key_takes_no_number(net: Net) -> None:
    """Calls that bring their own key are not counted: the next one is still the first."""
    below = await net.serve({"Do": Counting()})

    async def outer(client: Client, run: int) -> object:
        if run == 1:
            await client.call("Do", "a", metadata=((KEY, "mine"),))
        return await client.call("Do", "b")

    services = await start(net, below, outer, fails=1)
    await services.run()
    mine, first, second = below.seen.of()
    assert mine == "mine"
    assert first == second


async def test_concurrent_calls_are_refused(net: Net) -> None:
    """A second call while one is under way raises before anything is sent; afterwards calls go on."""
    blocking = Blocking()
    below = await net.serve({"Do": blocking, "Other": Counting()})

    async def outer(client: Client, _run: int) -> str:
        first = asyncio.create_task(client.call("Do", "a"))
        await blocking.began.wait()
        with pytest.raises(ConcurrentCalls, match=r"Other is called while .*Do"):
            await client.call("Other", "b")
        blocking.go.open()
        await first
        return (await client.call("Other", "b")).texts[0]

    services = await start(net, below, outer)
    assert await services.run() == "b run 1"
    assert [name for name, _ in below.seen.calls] == ["Do", "Other"]


@pytest.mark.parametrize("net", ["async"], indirect=True)
async def test_calls_that_are_gathered_are_refused(net: Net) -> None:
    """Calls that begin in one turn of the loop are concurrent too."""
    below = await net.serve({"Do": Counting()})

    async def outer(client: Client, _run: int) -> list[str]:
        calls = (client.call("Do", str(number)) for number in range(3))
        return [type(result).__name__ for result in await asyncio.gather(*calls, return_exceptions=True)]

    services = await start(net, below, outer)
    assert await services.run() == str(["Reply", "ConcurrentCalls", "ConcurrentCalls"])
    assert len(below.seen.calls) == 1


async def test_a_stream_that_is_not_read_is_under_way(net: Net) -> None:
    """A server-stream is over when it is read to its end, or cancelled."""
    below = await net.serve({"Do": Counting()})

    async def outer(client: Client, _run: int) -> str:
        stream = client.stub("Many", "unary_stream")(text("m"), timeout=20)
        first = await anext(aiter(stream)) if net.kind == "async" else next(stream)
        with pytest.raises(ConcurrentCalls):
            await client.call("Do", "b")
        stream.cancel()
        await client.call("Do", "b")
        return str(first.value)

    services = await start(net, below, outer)
    assert await services.run() == "m0"


@pytest.mark.parametrize("net", ["sync"], indirect=True)
async def test_a_stream_that_is_dropped_is_over(net: Net) -> None:
    """A stream that nobody keeps is cancelled by grpc, also when it has a derived key."""
    below = await net.serve({"Do": Counting()})

    async def outer(client: Client, _run: int) -> str:
        stream = client.stub("Many", "unary_stream")(text("m"), timeout=20)
        del stream
        return (await client.call("Do", "b")).texts[0]

    services = await start(net, below, outer)
    assert await services.run() == "b run 1"


def next_key(scope: Scope, method: str) -> str:
    """The key of the next call, which ends at once."""
    ticket = scope.begin(method)
    ticket.known_ended = True
    return ticket.key


def test_a_key_follows_from_scope_method_and_number() -> None:
    """Each of them makes another key; none of them by itself makes the same one."""
    scopes = [scope_of(b"one"), scope_of(b"two"), scope_of(b"one").child("step"), scope_of(b"one").child("other")]
    methods = ["/s/A", "/s/B"]
    assert len({next_key(scope, method) for scope in scopes for method in methods}) == 8
    first, again = scope_of(b"one"), scope_of(b"one")
    assert next_key(first, "/s/A") != next_key(scope_of(b"one"), "/s/B")
    assert [next_key(again, method) for method in methods] == [
        next_key(scope_of(b"one"), "/s/A"),
        next_key(first, "/s/B"),
    ]


async def test_distinct_steps_may_be_concurrent(net: Net) -> None:
    """Each step has numbers of its own: the keys are the same whichever step is faster."""
    below = await net.serve({"Do": Counting()})

    async def outer(client: Client, run: int) -> None:
        operation: Any = running_operation()

        async def one(name: str) -> None:
            with step(name, operation):
                await client.call("Do", f"{name} 0")
                await client.call("Do", f"{name} 1")

        names = ["a", "b"] if run == 1 else ["b", "a"]
        await asyncio.gather(*map(one, names))

    services = await start(net, below, outer, fails=1)
    await services.run()
    keys = below.seen.of()
    assert len(keys) == 8
    assert set(keys[:4]) == set(keys[4:])
    assert len(set(keys)) == 4


async def test_a_call_made_again_after_an_unclear_failure_is_a_retry(net: Net) -> None:
    """A handler's own loop retries under one key; another request after a failure is another call."""
    attempts: list[str] = []

    async def do(request: StringValue, context: Any) -> StringValue:
        attempts.append(request.value)
        if attempts.count(request.value) < 3:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        return text("done")

    below = await net.serve({"Do": do, "Next": Counting()})

    async def outer(client: Client, _run: int) -> None:
        for request in ("a", "b"):
            for _ in range(3):
                try:
                    await client.call("Do", request)
                    break
                except grpc.RpcError:
                    continue
        await client.call("Next")

    services = await start(net, below, outer, fails=1)
    await services.run()
    keys = below.seen.of("Do")
    assert len(keys) == 8, "three and three in the first run, then one and one"
    assert keys[:3] == [keys[0]] * 3
    assert keys[3:6] == [keys[3]] * 3
    assert keys[6:] == [keys[0], keys[3]]
    assert len(set(below.seen.of("Next"))) == 1


async def test_the_retry_helper_derives(net: Net) -> None:
    """A call that a handler retries has the same key in each attempt and each run."""
    seen = 0

    async def flaky(_request: Any, context: Any) -> StringValue:
        nonlocal seen
        seen += 1
        if seen == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        return text("done")

    below = await net.serve({"Do": flaky, "Next": Counting()})

    async def outer(client: Client, _run: int) -> None:
        await client.retry("Do", "a")
        await client.retry("Next", "a")
        await client.call("Next", "a")

    services = await start(net, below, outer, fails=1)
    await services.run()
    assert len(below.seen.of("Do")) == 3
    assert len(set(below.seen.of("Do"))) == 1
    first, second, *again = below.seen.of("Next")
    assert first != second
    assert again == [first, second]


@pytest.mark.parametrize("net", ["async"], indirect=True)
async def test_what_a_handler_left_behind_has_new_keys(net: Net) -> None:
    """A task that outlives its handler, or its step, makes calls of its own: their keys are new in each run."""
    below = await net.serve({"Do": Counting()})
    tasks: list[asyncio.Task[None]] = []

    async def outer(client: Client, run: int) -> None:
        ended = asyncio.Event()

        async def left_behind() -> None:
            await ended.wait()
            await client.call("Do", "x")

        with step("one"):
            await client.call("Do", "a")
            tasks.append(asyncio.create_task(left_behind()))
        ended.set()
        await tasks[-1]
        await client.call("Do", "b")

    services = await start(net, below, outer, fails=1)
    await services.run()
    keys = below.seen.of()
    assert (keys[0], keys[2]) == (keys[3], keys[5])
    assert len({*keys}) == 4, "those of the tasks are others in each run"


@pytest.mark.parametrize("net", ["async"], indirect=True)
async def test_concurrent_retries_are_refused(net: Net) -> None:
    """A retried call counts as one call of its handler, which may make no other one while it runs."""
    below = await net.serve({"Do": Counting()})

    async def outer(client: Client, _run: int) -> list[str]:
        calls = (AsyncRetrying().call(client.stub("Do"), text(str(number))) for number in range(2))
        return [type(result).__name__ for result in await asyncio.gather(*calls, return_exceptions=True)]

    services = await start(net, below, outer)
    assert await services.run() == str(["StringValue", "ConcurrentCalls"])
