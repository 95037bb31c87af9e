"""The store is down: before the claim, and at completion (5.5)."""

import asyncio
from typing import Any

import grpc
import pytest

from grpc_idempotency import Effects, Policy, State

from ..harness.handlers import Blocking, Counting
from ..harness.replies import new_key, refused
from ..harness.servers import Servers, claims
from ..harness.stores import FlakyStore
from ..harness.waiting import ms, until

UNAVAILABLE, PRECONDITION = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION


def brief(**options: Any) -> Policy:
    return Policy(lease=ms(500), renew_every=ms(100), **options)


async def test_a_claim_that_nobody_knows_of(serve: Servers) -> None:
    """A claim that may have taken effect is taken back: nobody waits for the lease of a run that was none (5.5)."""
    handler, store = Counting(), FlakyStore(serve.path)
    store.lands = True
    service = await serve({"Do": handler}, store=store)
    key = new_key()
    store.down.add("claim")
    refused(await service.call("Do", key=key), "STORE_UNAVAILABLE", UNAVAILABLE)
    store.down.clear()
    assert await service.records() == []
    assert (await service.call("Do", key=key)).mark == "executed"
    assert handler.runs == 1


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_a_store_that_breaks_its_contract(
    serve: Servers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A store that raises something else refuses the call, and its key is not lost: the retry executes (4.5)."""
    handler, key = Counting(), new_key()
    service = await serve({"Do": handler})

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("broken, for the test")

    monkeypatch.setattr(service.store, "claim", broken)
    refused(await service.call("Do", key=key), "STORE_UNAVAILABLE", UNAVAILABLE)
    assert "could not be brought to its end" in caplog.text
    caplog.clear()
    monkeypatch.undo()
    assert ((await service.call("Do", key=key)).mark, handler.runs) == ("executed", 1)


async def test_a_completion_is_tried_again(serve: Servers) -> None:
    """A completion that fails is tried again until it succeeds; the caller, and who attaches, wait for it (5.5)."""
    handler, store = Counting(), FlakyStore(serve.path)
    service = await serve({"Do": handler}, store=store)
    key = new_key()
    store.down.add("complete")
    first = asyncio.ensure_future(service.call("Do", key=key))
    await store.failed["complete"].wait()
    second = asyncio.ensure_future(service.call("Do", key=key))

    async def failed_again() -> bool:
        return store.failures["complete"] >= 2

    await until(failed_again)
    await until(lambda: service.is_followed(2))
    assert not first.done()
    assert not second.done()
    store.down.clear()
    assert ((await first).mark, (await second).mark, handler.runs) == ("executed", "attached", 1)


async def test_a_release_is_tried_again(serve: Servers) -> None:
    """A release that fails is tried again until it succeeds (5.5)."""

    async def busy(_request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.ABORTED, "try again")

    store = FlakyStore(serve.path)
    service = await serve({"Do": busy}, store=store)
    store.down.add("release")
    first = asyncio.ensure_future(service.call("Do", key=new_key()))
    await store.failed["release"].wait()
    assert (await service.the_record()).state is State.RUNNING
    store.down.clear()
    assert (await first).status is grpc.StatusCode.ABORTED
    assert await service.records() == []


@pytest.mark.parametrize("effects", list(Effects), ids=lambda effects: effects.value)
async def test_until_the_owner_must_be_presumed_dead(serve: Servers, effects: Effects) -> None:
    """When the lease ends first, the caller hears STORE_UNAVAILABLE, and the operation is not released (5.5)."""
    handler, store = Counting(), FlakyStore(serve.path)
    service = await serve({"Do": handler}, store=store, policy=brief(**claims(effects)))
    key = new_key()
    store.down |= {"complete", "renew"}
    reply = await service.call("Do", key=key)
    refused(reply, "STORE_UNAVAILABLE", UNAVAILABLE)
    assert "The handler ran" in reply.details
    assert "did not run" not in reply.details
    assert (await service.the_record()).state is State.RUNNING
    store.down.clear()
    again = await service.call("Do", key=key)
    if effects is Effects.OPAQUE:
        refused(again, "OUTCOME_UNKNOWN", PRECONDITION)
        assert handler.runs == 1
    else:
        assert again.text == " run 2"
        assert again.mark in ("executed", "attached")  # attached if recovery was faster


async def test_or_the_reply_marked_unprotected(serve: Servers) -> None:
    """By policy the caller gets the reply instead, marked ``unprotected`` (5.5)."""
    handler, store = Counting(), FlakyStore(serve.path)
    service = await serve({"Do": handler}, store=store, policy=brief(unprotected=True))
    store.down |= {"complete", "renew"}
    reply = await service.call("Do", key=new_key())
    assert (reply.text, reply.mark) == (" run 1", "unprotected")


async def test_the_store_goes_down_while_others_wait(serve: Servers) -> None:
    """A call that waits for a run in another process is told when the store goes down (5.5)."""
    handler, store = Blocking(), FlakyStore(serve.path)
    service = await serve({"Do": handler})
    other = await serve({"Do": handler}, store=store)
    key = new_key()
    first = asyncio.ensure_future(service.call("Do", key=key))
    await handler.began.wait()
    waiting = asyncio.ensure_future(other.call("Do", key=key))

    async def waits() -> bool:
        return store.asked["standing"] >= 1

    await until(waits)
    store.down |= {"claim", "standing"}
    refused(await waiting, "STORE_UNAVAILABLE", UNAVAILABLE)
    handler.go.open()
    assert ((await first).mark, handler.runs) == ("executed", 1)


async def test_a_renewal_that_fails_once(serve: Servers) -> None:
    """One renewal may fail: the next one is still in time (4.9)."""
    handler, store = Blocking(), FlakyStore(serve.path)
    service = await serve({"Do": handler}, store=store, policy=brief())
    key = new_key()
    store.down.add("renew")
    first = asyncio.ensure_future(service.call("Do", key=key))
    await store.failed["renew"].wait()
    store.down.clear()
    renewals = store.asked["renew"]

    async def renewed() -> bool:
        return store.asked["renew"] > renewals + 1

    await until(renewed)
    handler.go.open()
    assert (await first).mark == "executed"
