"""gRPC's own retries, with no code of ours on the client (2.3)."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Policy

from ..harness.clients import service_config
from ..harness.handlers import EACH_SERVER, Blocking, Counting
from ..harness.replies import new_key, text
from ..harness.servers import Servers
from ..harness.stores import FlakyStore
from ..harness.waiting import Gate, ms

KINDS = EACH_SERVER

RETRIES = service_config(
    retryPolicy={
        "maxAttempts": 5,
        "initialBackoff": "0.02s",
        "maxBackoff": "0.05s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
)


class Attempts(grpc.aio.ServerInterceptor):
    """Notes every attempt that reaches the server: its number, and when."""

    def __init__(self, expected: int) -> None:
        self.seen: list[tuple[int, float]] = []
        self.enough = Gate()
        self._expected = expected

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        metadata = dict(handler_call_details.invocation_metadata or ())
        self.seen.append((int(metadata.get("grpc-previous-rpc-attempts", 0)), time.monotonic()))
        if len(self.seen) == self._expected:
            self.enough.open()
        return await continuation(handler_call_details)

    @property
    def numbers(self) -> list[int]:
        return [number for number, _ in self.seen]


async def test_unavailable_is_retried_to_one_effect(serve: Servers) -> None:
    """A handler that was UNAVAILABLE at first is run again by a stock retryPolicy: one effect, one reply (2.3, 4.6)."""
    attempts = Attempts(2)
    effects: list[str] = []

    async def do(request: StringValue, context: Any) -> StringValue:
        if len(attempts.seen) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        effects.append(request.value)
        return text(f"effect {len(effects)}")

    service = await serve({"Do": do}, outside=[attempts])
    client = await serve.client(service.target, options=RETRIES)
    key = new_key()
    first = await client.call("Do", "once only", key=key)
    assert (first.text, first.mark, attempts.numbers) == ("effect 1", "executed", [0, 1])
    again = await client.call("Do", "once only", key=key)
    assert (again.text, again.mark, effects) == ("effect 1", "replayed", ["once only"])


async def test_a_store_that_comes_back_is_retried_to_one_effect(serve: Servers) -> None:
    """STORE_UNAVAILABLE before the claim is retried by a stock retryPolicy until the store is back (2.3, 5.5)."""
    store, handler = FlakyStore(serve.path), Counting()
    attempts = Attempts(2)
    service = await serve({"Do": handler}, store=store, outside=[attempts])
    client = await serve.client(service.target, options=RETRIES)
    store.down.add("claim")
    call = asyncio.ensure_future(client.call("Do", key=new_key()))
    await attempts.enough.wait()
    store.down.clear()
    assert (await call).mark == "executed"
    assert handler.runs == 1


async def test_push_back_is_obeyed(serve: Servers) -> None:
    """An attempt refused with IN_FLIGHT comes again when the push-back says, and gets the first reply (2.3)."""
    handler = Blocking()
    attempts = Attempts(3)  # so that one has certainly been refused
    service = await serve({"Do": handler}, policy=Policy(wait=ms(0)), outside=[attempts])
    client = await serve.client(service.target, options=RETRIES)
    key = new_key()
    first = asyncio.ensure_future(service.call("Do", key=key))
    await handler.began.wait()
    second = asyncio.ensure_future(client.call("Do", key=key))
    await attempts.enough.wait()
    handler.go.open()
    assert (await first).mark == "executed"
    reply = await second
    assert reply.text == "done 1"
    assert reply.mark in ("replayed", "attached")  # its attempt and the end of the first call may meet
    assert attempts.numbers[:3] == [0, 0, 1]
    assert attempts.seen[2][1] - attempts.seen[1][1] > 0.9
    assert handler.runs == 1


async def test_hedged_attempts_coalesce(serve: Servers) -> None:
    """Attempts of one call that overlap are one execution, and the call gets its reply (4.3)."""
    handler = Blocking()
    attempts = Attempts(2)
    service = await serve({"Do": handler}, outside=[attempts])
    hedging = {
        "maxAttempts": 5,
        "initialBackoff": "0.02s",
        "maxBackoff": "0.02s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE"],
        "perAttemptRecvTimeout": "0.4s",
    }
    client = await serve.client(service.target, options=service_config(retryPolicy=hedging))
    call = asyncio.ensure_future(client.call("Do", key=new_key()))
    await attempts.enough.wait()
    handler.go.open()
    reply = await call
    assert reply.text == "done 1"
    assert reply.mark in ("attached", "replayed")
    assert handler.runs == 1
