"""Transactional methods without recovery: a look before the handler, and one commit behind it (5.1 "One commit")."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, IdempotencyError, Policy, State

from ..harness.replies import new_key, refused, text
from ..harness.servers import Servers
from ..harness.stores import FlakyStore
from ..harness.waiting import Gate, ms, until
from ..steps.operations import here
from .test_transactions import create, insert, rows

TRANSACTIONAL = Policy(effects=Effects.TRANSACTIONAL)
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
async def store(serve: Servers) -> FlakyStore:
    """A store whose database has a table of ours. Its servers close it."""
    store = FlakyStore(serve.path)
    await store.transaction(create)
    return store


class Inserting:
    """A handler that inserts a row in a transaction, once it is let; the first of its runs waits for that alone."""

    def __init__(self, store: FlakyStore) -> None:
        self.store = store
        self.began, self.go, self.ended = Gate(), Gate(), Gate()
        self.runs = 0
        self.errors: list[str] = []

    async def __call__(self, request: StringValue, _context: Any) -> StringValue:
        self.runs += 1
        run = self.runs
        self.began.open()
        if run == 1:
            await self.go.wait()
        try:
            return await self.store.transaction(insert(f"{request.value} of run {run}"))
        except IdempotencyError as exc:
            self.errors.append(type(exc).__name__)
            raise
        finally:
            if run == 1:
                self.ended.open()


async def test_nothing_is_written_before_the_commit(serve: Servers, store: FlakyStore) -> None:
    """One look before the handler; no record while it runs; then its rows and a completed record (5.1)."""
    handler, key = Inserting(store), new_key()
    service = await serve({"Do": handler}, policy=TRANSACTIONAL, store=store)
    first = asyncio.ensure_future(service.call("Do", text("a"), key=key))
    await handler.began.wait()
    assert await service.records() == []
    assert (store.asked["get"], store.asked["claim"]) == (1, 0)
    handler.go.open()
    assert ((await first).text, (await first).mark) == ("inserted a of run 1", "executed")
    record = await service.the_record()
    assert (record.state, record.attempts, record.effects) == (State.COMPLETED, 1, Effects.TRANSACTIONAL)
    assert (store.asked["claim"], store.asked["complete"], store.asked["renew"]) == (0, 0, 0)
    other = await serve({"Do": handler}, policy=TRANSACTIONAL)
    assert (await other.call("Do", text("a"), key=key)).mark == "replayed"
    assert rows(serve.path) == ["a of run 1"]


async def test_duplicates_in_one_process_attach(serve: Servers, store: FlakyStore) -> None:
    """They are one execution there, also without a record (4.1, 4.3)."""
    handler, key = Inserting(store), new_key()
    service = await serve({"Do": handler}, policy=TRANSACTIONAL, store=store)
    calls = [asyncio.ensure_future(service.call("Do", text("a"), key=key))]
    await handler.began.wait()
    calls.append(asyncio.ensure_future(service.call("Do", text("a"), key=key)))
    reused = await service.call("Do", text("b"), key=key)
    refused(reused, "KEY_REUSED", grpc.StatusCode.FAILED_PRECONDITION)
    await until(lambda: service.is_followed(2))
    handler.go.open()
    assert [(await one).mark for one in calls] == ["executed", "attached"]
    assert rows(serve.path) == ["a of run 1"]


async def test_of_two_servers_one_commits(serve: Servers, store: FlakyStore) -> None:
    """Both run the handler, one commits, and the other is answered with what was committed (4.3, 5.1)."""
    handler, key = Inserting(store), new_key()
    slow, quick = [await serve({"Do": handler}, policy=TRANSACTIONAL, store=store) for _ in range(2)]
    second = asyncio.ensure_future(slow.call("Do", text("a"), key=key))
    await handler.began.wait()
    first = await quick.call("Do", text("a"), key=key)
    assert (first.text, first.mark) == ("inserted a of run 2", "executed")
    handler.go.open()
    assert ((await second).text, (await second).mark) == ("inserted a of run 2", "replayed")
    assert handler.errors == ["FenceRefused"]
    assert rows(serve.path) == ["a of run 2"]


async def test_another_request_commits_first(serve: Servers, store: FlakyStore) -> None:
    """A key that two servers were given for two requests is told to be reused by the one that comes too late (2.3)."""
    handler, key = Inserting(store), new_key()
    slow, quick = [await serve({"Do": handler}, policy=TRANSACTIONAL, store=store) for _ in range(2)]
    second = asyncio.ensure_future(slow.call("Do", text("a"), key=key))
    await handler.began.wait()
    assert (await quick.call("Do", text("b"), key=key)).mark == "executed"
    handler.go.open()
    refused(await second, "KEY_REUSED", grpc.StatusCode.FAILED_PRECONDITION)
    assert rows(serve.path) == ["b of run 2"]


async def test_a_handler_that_swallows_the_refusal(serve: Servers, store: FlakyStore) -> None:
    """What was committed counts, whatever a handler answers whose transaction was refused (4.7, 5.1)."""
    inserting, key = Inserting(store), new_key()

    async def do(request: StringValue, context: Any) -> StringValue:
        try:
            return await inserting(request, context)
        except IdempotencyError:
            return text("made up")

    slow, quick = [await serve({"Do": do}, policy=TRANSACTIONAL, store=store) for _ in range(2)]
    second = asyncio.ensure_future(slow.call("Do", text("a"), key=key))
    await inserting.began.wait()
    assert (await quick.call("Do", text("a"), key=key)).mark == "executed"
    inserting.go.open()
    assert ((await second).text, (await second).mark) == ("inserted a of run 2", "replayed")
    assert rows(serve.path) == ["a of run 2"]


async def test_an_answer_without_a_transaction(serve: Servers, store: FlakyStore) -> None:
    """A refused argument is stored in a write of its own, and replayed; a status that may pass writes nothing (4.6)."""
    codes = {"bad": INVALID, "later": UNAVAILABLE}
    runs = []

    async def do(request: StringValue, context: Any) -> StringValue:
        runs.append(request.value)
        await context.abort(codes[request.value], "no")
        raise AssertionError

    service = await serve({"Do": do}, policy=TRANSACTIONAL, store=store)
    key = new_key()
    told = [await service.call("Do", text("bad"), key=key) for _ in range(2)]
    assert [(one.status, one.details, one.mark) for one in told] == [
        (INVALID, "no", "executed"),
        (INVALID, "no", "replayed"),
    ]
    written = len(await service.records())
    key = new_key()
    told = [await service.call("Do", text("later"), key=key) for _ in range(2)]
    assert [(one.status, one.mark) for one in told] == [(UNAVAILABLE, "executed")] * 2
    assert (runs, written) == (["bad", "later", "later"], 1)
    assert len(await service.records()) == 1
    assert store.asked["release"] == 0


async def test_a_store_that_is_down_at_the_look(serve: Servers, store: FlakyStore) -> None:
    """Refused, and the handler did not run (5.5)."""
    handler, key = Inserting(store), new_key()
    handler.go.open()
    service = await serve({"Do": handler}, policy=TRANSACTIONAL, store=store)
    store.down.add("get")
    refused(await service.call("Do", text("a"), key=key), "STORE_UNAVAILABLE", UNAVAILABLE)
    assert handler.runs == 0
    store.down.clear()
    assert (await service.call("Do", text("a"), key=key)).mark == "executed"


async def test_a_store_that_is_down_at_the_answer(serve: Servers, store: FlakyStore) -> None:
    """An answer without a transaction is tried again for as long as a lease lasts; then nothing is kept (5.5)."""

    async def do(_request: StringValue, context: Any) -> StringValue:
        await context.abort(INVALID, "no")
        raise AssertionError

    policy = Policy(effects=Effects.TRANSACTIONAL, lease=ms(300), renew_every=ms(100))
    service = await serve({"Do": do}, policy=policy, store=store)
    key = new_key()
    store.down.add("complete")
    refused(await service.call("Do", text("a"), key=key), "STORE_UNAVAILABLE", UNAVAILABLE)
    assert store.failures["complete"] > 1
    assert await service.records() == []
    retry = asyncio.ensure_future(service.call("Do", text("a"), key=key))
    failed = store.failures["complete"]

    async def tried() -> bool:
        return store.failures["complete"] > failed

    await until(tried)
    store.down.clear()
    assert ((await retry).status, (await retry).mark) == (INVALID, "executed")


async def test_a_step_claims_the_operation(serve: Servers, store: FlakyStore) -> None:
    """A step can only be kept with a record: the first one claims, and from then on the lease is renewed (4.9, 5.2)."""
    began, go = Gate(), Gate()
    runs: list[str] = []

    async def do(request: StringValue, _context: Any) -> StringValue:
        runs.append(await here().step("a", lambda: f"step of run {len(runs) + 1}"))
        began.open()
        await go.wait()
        return await store.transaction(insert(f"{request.value}, {runs[-1]}"))

    policy = Policy(effects=Effects.TRANSACTIONAL, lease=ms(600), renew_every=ms(50))
    service, other = [await serve({"Do": do}, policy=policy, store=store) for _ in range(2)]
    key = new_key()
    first = asyncio.ensure_future(service.call("Do", text("a"), key=key))
    await began.wait()
    assert (await service.the_record()).state is State.RUNNING

    async def renewed() -> bool:
        return store.asked["renew"] > 3

    await until(renewed)
    second = asyncio.ensure_future(other.call("Do", text("a"), key=key))
    go.open()
    assert [(await one).text for one in (first, second)] == ["inserted a, step of run 1"] * 2
    assert (runs, rows(serve.path)) == (["step of run 1"], ["a, step of run 1"])
    assert (await service.the_record()).state is State.COMPLETED


async def test_a_step_after_another_server_has_committed(serve: Servers, store: FlakyStore) -> None:
    """It does not begin, and the call is answered with what was committed (4.2, 5.2)."""
    began, go, done, runs = Gate(), Gate(), [], []

    async def do(request: StringValue, _context: Any) -> StringValue:
        runs.append(1)
        run = len(runs)
        if run == 1:
            began.open()
            await go.wait()
            await here().step("a", lambda: done.append(run))
        return await store.transaction(insert(f"{request.value} of run {run}"))

    slow, quick = [await serve({"Do": do}, policy=TRANSACTIONAL, store=store) for _ in range(2)]
    key = new_key()
    second = asyncio.ensure_future(slow.call("Do", text("a"), key=key))
    await began.wait()
    assert (await quick.call("Do", text("a"), key=key)).text == "inserted a of run 2"
    go.open()
    assert (await second).text == "inserted a of run 2"
    assert (done, rows(serve.path)) == ([], ["a of run 2"])


async def test_past_its_limit(serve: Servers, store: FlakyStore) -> None:
    """Callers are answered at the limit; nothing runs beside what can't be stopped, and its commit counts (4.1)."""
    stubborn = Gate()

    async def do(request: StringValue, _context: Any) -> StringValue:
        while not stubborn.opened:
            with suppress(asyncio.CancelledError):
                await stubborn.wait()
        return await store.transaction(insert(request.value))

    policy = Policy(effects=Effects.TRANSACTIONAL, execution_limit=ms(50))
    service = await serve({"Do": do}, policy=policy, store=store)
    key = new_key()
    assert (await service.call("Do", text("a"), key=key)).status is UNAVAILABLE
    retry = asyncio.ensure_future(service.call("Do", text("a"), key=key))
    impatient = await service.call("Do", text("a"), key=key, timeout=0.5)
    assert impatient.status in (grpc.StatusCode.DEADLINE_EXCEEDED, UNAVAILABLE)
    stubborn.open()
    assert ((await retry).text, (await retry).mark) == ("inserted a", "attached")
    assert rows(serve.path) == ["a"]


async def test_what_was_claimed_under_another_policy(serve: Servers, store: FlakyStore) -> None:
    """A lapsed record is taken over by a claim, as if the policy had always asked for one (4.9)."""
    handler, key = Inserting(store), new_key()
    handler.go.open()
    claiming = Policy(effects=Effects.TRANSACTIONAL, recover=True, lease=ms(1), renew_every=timedelta(microseconds=500))
    before = await serve({"Do": handler}, policy=claiming, store=store)
    store.down |= {"transaction", "release"}
    await before.call("Do", text("a"), key=key)
    (claim,) = {one.name: one for one in store.claims}.values()
    store.down.clear()
    now = await serve({"Do": handler}, policy=TRANSACTIONAL, store=store)
    reply = await now.call("Do", text("a"), key=key)
    assert (reply.mark, rows(serve.path)) == ("executed", [f"a of run {handler.runs}"])
    record = await now.the_record()
    assert (record.name, record.attempts, record.state) == (claim.name, 2, State.COMPLETED)
