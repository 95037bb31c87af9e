"""Real servers of both kinds under observation: what is exported of their calls, and what the spans of calls get."""

import asyncio
from contextlib import closing
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, Policy, Record, SQLiteStore

from ..harness.handlers import ALL_KINDS, EACH_SERVER, Blocking, Counting, full
from ..harness.replies import new_key, secrets_told, text
from ..harness.servers import Servers, Service, answered
from ..harness.waiting import ms, until
from ..steps.recovery import dead
from .scrapes import exposed, scraped, value_of
from .watched import Watched, in_bytes, linked

KINDS = EACH_SERVER
METHOD = full("Do")[1:]
STATUS, CODE, ERROR = "grpc_idempotency.status", "rpc.response.status_code", "error.type"


async def fail(_request: Any, context: Any) -> StringValue:
    await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
    return text("")


async def test_what_a_server_exports(serve: Servers, watched: Watched) -> None:
    """Calls are exported by how they were answered, and runs by how they ended, by both roads alike."""
    service = await serve(
        {"Do": Counting(), "Fail": fail}, observers=watched.observers, principal=lambda _caller: "ada"
    )
    key = new_key()
    for request, own_key in (("first one", key), ("first one", key), ("other one", key), ("un-keyed", None)):
        await service.call("Do", request, key=own_key)
    assert (await service.call("Fail", "x", key=new_key())).status is grpc.StatusCode.NOT_FOUND
    assert watched.points("grpc_idempotency.calls", STATUS, CODE, ERROR) == {
        ("executed", "OK"): 1,
        ("replayed", "OK"): 1,
        ("refused", "FAILED_PRECONDITION", "KEY_REUSED"): 1,
        ("executed", "NOT_FOUND", "NOT_FOUND"): 1,
    }
    assert watched.points("grpc_idempotency.call.duration", STATUS) == {
        ("executed",): 2,
        ("replayed",): 1,
        ("refused",): 1,
    }
    assert watched.points("grpc_idempotency.executions", "grpc_idempotency.ending") == {("answered",): 2}
    assert watched.points("grpc_idempotency.executions.active") == {}
    assert watched.points("grpc_idempotency.replay.age", "rpc.method") == {(METHOD,): 1}
    assert watched.points("grpc_idempotency.takeovers") == {}
    with exposed(watched.registry) as url:
        samples = await asyncio.to_thread(scraped, url)
    name = "grpc_idempotency_calls_total"
    assert value_of(samples, name, rpc_method=METHOD, grpc_idempotency_status="replayed") == 1
    assert value_of(samples, name, rpc_method=METHOD, error_type="KEY_REUSED") == 1
    told = {text for sample in samples for text in sample.labels.values()}
    (record, _) = await service.records()
    assert not [secret for secret in (*secrets_told, "ada", record.name.hex()) if any(secret in one for one in told)]


async def test_a_running_handler_is_active(serve: Servers, watched: Watched) -> None:
    """A handler that runs is counted until it ends; a call that waits for it is not one of them."""
    handler = Blocking()
    service = await serve({"Do": handler}, observers=watched.observers)
    key = new_key()
    calls = [service.start("Do", "a request", key=key)]
    await handler.began.wait()
    calls.append(service.start("Do", "a request", key=key))
    await until(lambda: service.is_followed(2))
    assert watched.points("grpc_idempotency.executions.active", "rpc.method") == {(METHOD,): 1}
    handler.go.open()
    for call in calls:
        await call.end()
    assert watched.points("grpc_idempotency.executions.active") == {}
    assert watched.points("grpc_idempotency.calls", STATUS) == {("executed",): 1, ("attached",): 1}


@pytest.mark.parametrize("kind", ALL_KINDS)
async def test_a_handler_past_its_limit_is_active_until_it_ends(serve: Servers, kind: str, watched: Watched) -> None:
    """A handler on a thread can't be stopped: it runs on when its operation is held and its call is answered."""
    handler = Blocking()
    policy = Policy(effects=Effects.OPAQUE, execution_limit=ms(50))
    service = await serve({"Do": handler}, policy=policy, observers=watched.observers)
    reply = await service.call("Do", "a request", key=new_key())
    assert reply.status is grpc.StatusCode.FAILED_PRECONDITION
    active = watched.points("grpc_idempotency.executions.active", "rpc.method")
    assert active == ({} if kind == "async" else {(METHOD,): 1})
    handler.go.open()

    async def ended() -> bool:
        return watched.points("grpc_idempotency.executions.active") == {}

    await until(ended)


async def test_a_replay_links_to_the_call_that_was_executed(serve: Servers, watched: Watched) -> None:
    """The span of a replay links to that of the first call, from memory and from the store of another server."""
    options: dict[str, Any] = {"observers": watched.observers, "outside": watched.outside(serve.kind)}
    first, second = await serve({"Do": Counting()}, **options), await serve({"Do": Counting()}, **options)
    key = new_key()
    for service in (first, first, second):
        await service.call("Do", "a request", key=key)
    executed, replayed, elsewhere = await _ended(watched, 3)
    name = (await first.the_record()).name.hex()
    for span, status in ((executed, "executed"), (replayed, "replayed"), (elsewhere, "replayed")):
        assert span.attributes is not None
        assert span.attributes[STATUS] == status
        assert span.attributes["grpc_idempotency.operation"] == name
    assert linked(executed) == []
    assert linked(replayed) == linked(elsewhere) == [in_bytes(executed.context)]


async def test_an_attached_call_links_to_the_call_that_runs(serve: Servers, watched: Watched) -> None:
    """The span of a call that waited links to that of the call whose run it got the outcome of."""
    handler = Blocking()
    service = await serve({"Do": handler}, observers=watched.observers, outside=watched.outside(serve.kind))
    key = new_key()
    calls = [service.start("Do", "a request", key=key)]
    await handler.began.wait()
    calls.append(service.start("Do", "a request", key=key))
    await until(lambda: service.is_followed(2))
    handler.go.open()
    for call in calls:
        await call.end()
    spans = {str((span.attributes or {})[STATUS]): span for span in await _ended(watched, 2)}
    assert linked(spans["attached"]) == [in_bytes(spans["executed"].context)]
    assert linked(spans["executed"]) == []


@pytest.mark.parametrize("kind", ALL_KINDS)
async def test_a_recovered_handler_runs_in_a_span_of_its_own(serve: Servers, watched: Watched, promptly: None) -> None:
    """The spans that the handler makes are in the span of recovery; the take-over is counted."""

    async def handler(_request: Any, _context: Any) -> StringValue:
        with watched.tracer.start_as_current_span("query"):
            return text("done")

    policy = Policy(effects=Effects.REPEATABLE, lease=ms(600), renew_every=ms(150))
    service = await serve({"Do": handler}, policy=policy, observers=watched.observers)
    with closing(SQLiteStore(serve.path)) as store:
        name = dead(store)
    await until(lambda: _completed(service, name))
    query, recovery = await _ended(watched, 2)
    assert query.parent is not None
    assert query.parent == recovery.context
    assert recovery.parent is None
    assert recovery.attributes == {
        "rpc.method": METHOD,
        "grpc_idempotency.operation": name.hex(),
        "grpc_idempotency.attempt": 2,
        "grpc_idempotency.ending": "answered",
    }
    assert watched.points("grpc_idempotency.takeovers", "rpc.method") == {(METHOD,): 1}
    assert watched.points("grpc_idempotency.recovered", "grpc_idempotency.fate") == {("run",): 1}


async def _completed(service: Service, name: bytes) -> bool:
    record: Record | None = await answered(service.store.get(name))
    return record is not None and record.outcome is not None


async def _ended(watched: Watched, count: int) -> Any:
    """Returns the spans when so many have ended. That of a call ends after its client has the reply."""

    async def enough() -> bool:
        return len(watched.spans()) >= count

    await until(enough)
    return watched.spans()
