"""One execution at a time, and duplicates that wait for it (4.1, 4.3)."""

import asyncio
import time
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Policy

from ..harness.handlers import Blocking, Counting
from ..harness.replies import new_key, refused, text
from ..harness.servers import Servers, Service
from ..harness.stores import FlakyStore
from ..harness.waiting import Gate, ms, until


class Slow:
    """A handler that takes a moment; tells how many ran at the same time for one request."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.overlapped = False
        self._running: set[str] = set()

    async def __call__(self, request: StringValue, _context: Any) -> StringValue:
        self.overlapped |= request.value in self._running
        self._running.add(request.value)
        self.runs.append(request.value)
        await asyncio.sleep(0.02)
        self._running.discard(request.value)
        return text(f"{request.value} {self.runs.count(request.value)}")


async def storm(services: list[Service], keys: int, calls: int) -> list[Any]:
    """So many calls at once over so few keys, in turn to each service."""
    named = [(new_key(), f"request number {number}") for number in range(keys)]
    return await asyncio.gather(
        *(
            services[number % len(services)].call("Do", named[number % keys][1], key=named[number % keys][0])
            for number in range(calls)
        )
    )


async def test_fifty_duplicates_at_once(serve: Servers) -> None:
    """50 concurrent calls with one key are one execution, and all get its reply (4.1)."""
    handler = Slow()
    service = await serve({"Do": handler})
    replies = await storm([service], keys=1, calls=50)
    assert {reply.text for reply in replies} == {"request number 0 1"}
    assert len(handler.runs) == 1
    marks = [reply.mark for reply in replies]
    assert marks.count("executed") == 1
    assert set(marks) <= {"executed", "attached", "replayed"}


async def test_two_hundred_calls_over_twenty_keys(serve: Servers) -> None:
    """200 concurrent calls over 20 keys are 20 executions (4.1)."""
    handler = Slow()
    service = await serve({"Do": handler})
    replies = await storm([service], keys=20, calls=200)
    assert sorted(handler.runs) == sorted({f"request number {number}" for number in range(20)})
    assert {reply.text for reply in replies} == {f"request number {number} 1" for number in range(20)}


async def test_two_servers_on_one_store(serve: Servers) -> None:
    """Concurrent duplicates are one execution over two servers too, each with a store of its own on one file (4.1)."""
    handler = Slow()
    services = [await serve({"Do": handler}) for _ in range(2)]
    replies = await storm(services, keys=7, calls=70)
    assert (len(handler.runs), handler.overlapped) == (7, False)
    assert {reply.text for reply in replies} == {f"request number {number} 1" for number in range(7)}
    assert [reply.mark for reply in replies].count("executed") == 7


async def test_waiting_in_one_process_does_not_poll(serve: Servers) -> None:
    """Duplicates in one process cost the store nothing: no claim, no look (4.3)."""
    handler, store = Blocking(), FlakyStore(serve.path)
    service = await serve({"Do": handler}, store=store)
    key = new_key()
    calls = [asyncio.ensure_future(service.call("Do", key=key)) for _ in range(10)]
    await until(lambda: service.is_followed(10))
    handler.go.open()
    marks = [reply.mark for reply in await asyncio.gather(*calls)]
    assert (marks.count("executed"), marks.count("attached")) == (1, 9)
    assert (store.asked["claim"], store.asked["get"], store.asked["complete"]) == (1, 0, 1)


@pytest.mark.parametrize("kind", ["async"])
async def test_waiting_across_processes_is_one_poll(serve: Servers) -> None:
    """All calls of a process that wait for runs elsewhere share one query a round, of many operations, too (4.3)."""
    handler, store = Blocking(), FlakyStore(serve.path)
    service = await serve({"Do": handler})
    other = await serve({"Do": Counting()}, store=store)
    keys = [new_key() for _ in range(50)]
    first = [asyncio.ensure_future(service.call("Do", key=key)) for key in keys]

    async def run() -> bool:
        return handler.runs == len(keys)

    await until(run)
    waiting = [asyncio.ensure_future(other.call("Do", key=key)) for key in keys * 4]

    async def all_wait() -> bool:
        return sum(map(len, other.interceptor._executions.poller._waiters.values())) == len(waiting)

    await until(all_wait)

    async def polled_for_all() -> bool:
        return len(store.names) == len(keys)

    await until(polled_for_all)
    before = store.asked["standing"]

    async def polled() -> bool:
        return store.asked["standing"] >= before + 3

    await until(polled)
    assert len(store.names) == len(keys)
    handler.go.open()
    await asyncio.gather(*first)
    replies = await asyncio.gather(*waiting)
    assert {reply.mark for reply in replies} == {"attached"}
    assert (handler.runs, store.asked["get"]) == (len(keys), 0)
    asked = store.asked["standing"]
    await other.call("Do", key=new_key())
    assert store.asked["standing"] == asked  # without a call that waits, there is no poll


async def test_the_wait_budget(serve: Servers) -> None:
    """A duplicate waits as long as the policy says, then is refused (4.3)."""
    handler = Blocking()
    service = await serve({"Do": handler}, policy=Policy(wait=ms(150)))
    key = new_key()
    first = asyncio.ensure_future(service.call("Do", key=key))
    await handler.began.wait()
    began = time.monotonic()
    refused(await service.call("Do", key=key), "IN_FLIGHT", grpc.StatusCode.UNAVAILABLE)
    assert time.monotonic() - began > 0.14
    handler.go.open()
    assert (await first).mark == "executed"


async def test_the_wait_budget_across_processes(serve: Servers) -> None:
    """A duplicate that waits for another process waits as long as the policy says, too (4.3)."""
    handler = Blocking()
    service = await serve({"Do": handler})
    other = await serve({"Do": Counting()}, policy=Policy(wait=ms(150)))
    key = new_key()
    first = asyncio.ensure_future(service.call("Do", key=key))
    await handler.began.wait()
    began = time.monotonic()
    refused(await other.call("Do", key=key), "IN_FLIGHT", grpc.StatusCode.UNAVAILABLE)
    assert time.monotonic() - began > 0.14
    handler.go.open()
    assert (await first).mark == "executed"


async def test_the_deadline_less_a_margin(serve: Servers) -> None:
    """A duplicate is refused before its own deadline, so that it learns why (4.3)."""
    handler = Blocking()
    service = await serve({"Do": handler}, policy=Policy(wait_margin=ms(1000)))
    key = new_key()
    first = asyncio.ensure_future(service.call("Do", key=key))
    await handler.began.wait()
    refused(await service.call("Do", key=key, timeout=1.2), "IN_FLIGHT", grpc.StatusCode.UNAVAILABLE)
    handler.go.open()
    assert (await first).mark == "executed"


class Failing:
    """Says UNAVAILABLE in its first run, once it is let, and answers in the next."""

    def __init__(self) -> None:
        self.began, self.go = Gate(), Gate()
        self.runs = 0

    async def __call__(self, _request: Any, context: Any) -> StringValue:
        self.runs += 1
        if self.runs == 1:
            self.began.open()
            await self.go.wait()
            await context.abort(grpc.StatusCode.UNAVAILABLE, "nothing happened")
        await asyncio.sleep(0.05)
        return text(f"run {self.runs}")


async def test_those_who_wait_contend_when_it_is_released(serve: Servers) -> None:
    """When the operation is released instead, the waiters contend for one new claim (4.3)."""
    handler = Failing()
    service = await serve({"Do": handler})
    key = new_key()
    first = asyncio.ensure_future(service.call("Do", key=key))
    await handler.began.wait()
    waiting = [asyncio.ensure_future(service.call("Do", key=key)) for _ in range(8)]
    await until(lambda: service.is_followed(9))
    handler.go.open()
    assert (await first).status is grpc.StatusCode.UNAVAILABLE
    replies = await asyncio.gather(*waiting)
    assert {reply.text for reply in replies} == {"run 2"}
    marks = [reply.mark for reply in replies]
    assert (marks.count("executed"), handler.runs) == (1, 2)


async def test_those_who_wait_elsewhere_contend_too(serve: Servers) -> None:
    """Calls that wait in two processes contend for one new claim over both (4.3)."""
    handler = Failing()
    services = [await serve({"Do": handler}) for _ in range(2)]
    key = new_key()
    first = asyncio.ensure_future(services[0].call("Do", key=key))
    await handler.began.wait()
    waiting = [asyncio.ensure_future(services[number % 2].call("Do", key=key)) for number in range(8)]
    await until(lambda: services[0].is_followed(5))
    handler.go.open()
    assert (await first).status is grpc.StatusCode.UNAVAILABLE
    replies = await asyncio.gather(*waiting)
    assert {reply.text for reply in replies} == {"run 2"}
    assert [reply.mark for reply in replies].count("executed") == 1
