"""Every refusal that a call can meet: status, details, trailers and words (2.3)."""

import asyncio
from typing import Any

import grpc
from google.rpc import error_details_pb2

from grpc_idempotency import Caller, Policy, SQLiteStore, aio

from ..harness.handlers import EACH_SERVER, Blocking, Counting
from ..harness.replies import new_key, refused
from ..harness.servers import Servers
from ..harness.stores import FlakyStore

KINDS = EACH_SERVER

BAD_REQUEST, RETRY_INFO = error_details_pb2.BadRequest, error_details_pb2.RetryInfo
INVALID, UNAVAILABLE = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION

"""What calls a streaming method, and what tells how often it ran."""


async def test_key_reused_is_told_at_once_by_another_server(serve: Servers) -> None:
    """KEY_REUSED is told at once by another server on the same store, while the operation runs (2.3)."""
    handler = Blocking()
    service = await serve({"Do": handler})
    other = await serve({"Do": Counting()})
    key = new_key()
    first = asyncio.ensure_future(service.call("Do", "buy one of them", key=key))
    await handler.began.wait()
    refused(await other.call("Do", "buy two of them", key=key), "KEY_REUSED", PRECONDITION)
    handler.go.open()
    assert (await first).mark == "executed"


async def test_the_order_of_the_table(serve: Servers) -> None:
    """Where several refusals would do, the first of the table is told (2.3)."""
    store = FlakyStore(serve.path)
    nobody: dict[str, Any] = {"policies": {"Do": Policy(required=True)}, "store": store}

    def principal(caller: Caller) -> str:
        return dict(caller.metadata).get("x-user", "")  # type: ignore[return-value]  # text, under this name

    service = await serve({"Do": Counting()}, principal=principal, **nobody)
    store.down.add("claim")
    assert (await service.call("Do", key="")).reason == "KEY_INVALID"
    assert (await service.call("Do")).reason == "KEY_REQUIRED"
    assert (await service.call("Do", key=new_key())).reason == "PRINCIPAL_REQUIRED"
    assert (await service.call("Do", key=new_key(), metadata=[("x-user", "ann")])).reason == "STORE_UNAVAILABLE"


async def test_a_request_that_is_no_message(serve: Servers) -> None:
    """A keyed request that can't be parsed is INTERNAL, with no text of the exception; nothing is claimed (2.3)."""
    service = await serve({"Do": Counting()})
    reply = await service.call("Do", b"\xff\xff\xff", key=new_key())
    assert (reply.status, reply.mark) == (grpc.StatusCode.INTERNAL, "refused")
    assert "corrupt" not in reply.details
    assert await service.records() == []


def test_flaky_stores_are_stores(tmp_path: Any) -> None:
    """The stores that tests have fail are real SQLite stores, of both kinds."""
    store = FlakyStore(tmp_path / "x.db")
    assert isinstance(store, aio.SQLiteStore)
    assert isinstance(store.for_threads(), SQLiteStore)
