"""The retry helper: one key for all attempts, for as long as it makes sense (issue 4, 3)."""

import asyncio
import re
import sqlite3
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2, status_pb2

import grpc_idempotency
from grpc_idempotency import Policy, PolicyError, Reason, UnkeyedRetry, refusal_of, status_of
from grpc_idempotency.retrying import AsyncRetrying, Retrying

from ..harness.handlers import Blocking, Counting
from ..harness.processes import Process
from ..harness.replies import KEY, text
from .net import Net

MS = timedelta(milliseconds=1)
QUICK = {"backoff": 10 * MS, "max_backoff": 20 * MS}


class Failing:
    """A handler that fails at first; counts its runs."""

    def __init__(self, code: grpc.StatusCode, times: int = 1000, **trailers: str | bytes) -> None:
        self.runs = 0
        self.at: list[float] = []
        self._code = code
        self._times = times
        self._trailers = tuple((name.replace("_", "-"), value) for name, value in trailers.items())

    async def __call__(self, _request: Any, context: Any) -> StringValue:
        self.runs += 1
        self.at.append(time.monotonic())
        if self.runs <= self._times:
            context.set_trailing_metadata(self._trailers)
            await context.abort(self._code, "not this time")
        return text(f"run {self.runs}")


def retry_info(delay: timedelta) -> bytes:
    packed, duration = any_pb2.Any(), duration_pb2.Duration()
    duration.FromTimedelta(delay)
    packed.Pack(error_details_pb2.RetryInfo(retry_delay=duration))
    return status_pb2.Status(details=[packed]).SerializeToString()


async def test_unavailable_is_retried_under_one_key(net: Net) -> None:
    """A server that fails twice is called three times under one key, and another call has another one."""
    handler = Failing(grpc.StatusCode.UNAVAILABLE, 2)
    server = await net.serve({"Do": handler})
    client = await net.client(server.target)
    assert await client.retry("Do", **QUICK) == "run 3"
    assert await client.retry("Do", **QUICK) == "run 4"
    keys = server.seen.of()
    assert len(keys) == 4
    assert len(set(keys[:3])) == 1
    assert keys[3] not in (None, keys[0])


async def test_a_callers_key_is_kept(net: Net) -> None:
    """A key from the caller is that of every attempt."""
    server = await net.serve({"Do": Failing(grpc.StatusCode.UNAVAILABLE, 1)})
    client = await net.client(server.target)
    assert await client.retry("Do", metadata=((KEY, "mine"),), **QUICK) == "run 2"
    assert server.seen.of() == ["mine", "mine"]


async def test_an_operation_in_flight_is_waited_for(net: Net) -> None:
    """IN_FLIGHT is retried when its push-back says, until the outcome is there."""
    blocking = Blocking()
    server = await net.serve({"Do": blocking}, policy=Policy(wait=timedelta(0)))
    client = await net.client(server.target)
    first = asyncio.create_task(client.call("Do", metadata=((KEY, "k"),)))
    await blocking.began.wait()
    with pytest.raises(grpc.RpcError) as refused:
        await client.call("Do", metadata=((KEY, "k"),))
    refusal = refusal_of(refused.value)
    assert refusal is not None
    assert (refusal.reason, refusal.push_back, status_of(refused.value)) == (Reason.IN_FLIGHT, True, "refused")
    assert refusal.retry_after is not None
    assert str(refused.value.details()) == refusal.message
    second = asyncio.create_task(client.retry("Do", metadata=((KEY, "k"),)))
    await server.seen.gate(4).wait()
    blocking.go.open()
    assert await second == (await first).texts[0] == "done 1"


async def test_an_attempt_that_takes_too_long_is_made_again(net: Net) -> None:
    """After the attempt's timeout the next one attaches to the operation that still runs."""
    blocking = Blocking()
    server = await net.serve({"Do": blocking})
    client = await net.client(server.target)
    calling = asyncio.create_task(client.retry("Do", attempt_timeout=400 * MS, **QUICK))
    await server.seen.gate(2).wait()
    blocking.go.open()
    assert await calling == "done 1"
    assert len(set(server.seen.of())) == 1


@pytest.mark.parametrize("seconds", [-1, 1 << 62, 10_000 * 365 * 86400])
async def test_a_server_that_says_never(net: Net, seconds: int) -> None:
    """A server that asks for a wait which nobody lives to see asks for none."""
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=seconds)))
    details = status_pb2.Status(details=[packed]).SerializeToString()
    for trailers in ({"grpc_status_details_bin": details}, {"grpc_retry_pushback_ms": str(seconds * 1000)}):
        handler = Failing(grpc.StatusCode.UNAVAILABLE, **trailers)
        server = await net.serve({"Do": handler})
        client = await net.client(server.target)
        with pytest.raises(grpc.RpcError):
            await client.retry("Do", deadline=None, **QUICK)
        assert handler.runs == 1


@pytest.mark.parametrize(
    "trailers", [{"grpc_retry_pushback_ms": "250"}, {"grpc_status_details_bin": retry_info(250 * MS)}]
)
async def test_the_server_says_how_long_to_wait(net: Net, trailers: dict[str, str | bytes]) -> None:
    """Push-back and RetryInfo make any status one to retry, and say when."""
    handler = Failing(grpc.StatusCode.RESOURCE_EXHAUSTED, 1, **trailers)
    server = await net.serve({"Do": handler}, protected=False)
    client = await net.client(server.target)
    assert await client.retry("Do", **QUICK) == "run 2"
    assert handler.at[1] - handler.at[0] >= 0.25


@pytest.mark.parametrize("push_back", ["-1", "soon"])
async def test_a_negative_push_back_ends_it(net: Net, push_back: str) -> None:
    """A server that asks not to come again is not asked again."""
    handler = Failing(grpc.StatusCode.UNAVAILABLE, grpc_retry_pushback_ms=push_back)
    server = await net.serve({"Do": handler})
    client = await net.client(server.target)
    with pytest.raises(grpc.RpcError, match="not this time"):
        await client.retry("Do", **QUICK)
    assert len(server.seen.calls) == 1


@pytest.mark.parametrize(
    "code",
    [grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ABORTED],
    ids=lambda code: code.name,
)
async def test_what_no_retry_mends_is_raised_at_once(net: Net, code: grpc.StatusCode) -> None:
    """Other statuses than those of a lost reply are the caller's to handle."""
    server = await net.serve({"Do": Failing(code)})
    client = await net.client(server.target)
    with pytest.raises(grpc.RpcError, match="not this time") as failed:
        await client.retry("Do", **QUICK)
    assert failed.value.code() is code
    assert refusal_of(failed.value) is None
    assert len(server.seen.calls) == 1


async def test_a_stored_failure_ends_it(net: Net) -> None:
    """An unclear failure is asked about once more; when it is replayed, it is what the operation came to."""
    handler = Failing(grpc.StatusCode.UNKNOWN)
    server = await net.serve({"Do": handler})
    client = await net.client(server.target)
    with pytest.raises(grpc.RpcError) as failed:
        await client.retry("Do", **QUICK)
    assert (status_of(failed.value), len(server.seen.calls), handler.runs) == ("replayed", 2, 1)


async def test_a_reused_key_is_never_retried(net: Net) -> None:
    """A final refusal ends it, whatever statuses are to be retried."""
    server = await net.serve({"Do": Counting()})
    client = await net.client(server.target)
    await client.call("Do", "one", metadata=((KEY, "k"),))
    with pytest.raises(grpc.RpcError) as failed:
        await client.retry("Do", "two", metadata=((KEY, "k"),), codes=set(grpc.StatusCode), **QUICK)
    refusal = refusal_of(failed.value)
    assert refusal is not None
    assert refusal.reason is Reason.KEY_REUSED
    assert len(server.seen.calls) == 2


async def test_the_attempts_are_limited(net: Net) -> None:
    """After so many attempts the last one's error is raised."""
    server = await net.serve({"Do": Failing(grpc.StatusCode.UNAVAILABLE)})
    client = await net.client(server.target)
    with pytest.raises(grpc.RpcError, match="not this time"):
        await client.retry("Do", attempts=3, **QUICK)
    assert len(server.seen.calls) == 3


async def test_the_time_is_limited(net: Net) -> None:
    """The deadline holds for all attempts and waits together, and for a call that hangs."""
    blocking = Blocking()
    server = await net.serve({"Fail": Failing(grpc.StatusCode.UNAVAILABLE), "Hang": blocking})
    client = await net.client(server.target)
    for method, code in (("Fail", grpc.StatusCode.UNAVAILABLE), ("Hang", grpc.StatusCode.DEADLINE_EXCEEDED)):
        with pytest.raises(grpc.RpcError) as failed:
            await client.retry(method, deadline=500 * MS, **QUICK)
        assert failed.value.code() in (code, grpc.StatusCode.DEADLINE_EXCEEDED)
    blocking.go.open()


async def test_calls_of_a_function_keep_their_keys(net: Net) -> None:
    """A decorated function's calls are made again in its next attempt, each under the key it had."""
    handler, counting = Failing(grpc.StatusCode.UNAVAILABLE, 1), Counting()
    server = await net.serve({"Do": handler, "First": counting})
    client = await net.client(server.target)

    async def both(value: str) -> str:
        first = await client.call("First", value)
        return first.texts[0] + (await client.call("Do", value)).texts[0]

    def both_on_this_thread(value: str) -> str:
        return str(client.stub("First")(text(value)).value) + str(client.stub("Do")(text(value)).value)

    if net.kind == "async":
        result = await AsyncRetrying(**QUICK)(both)("x")  # type: ignore[arg-type]  # durations all
    else:
        result = await asyncio.to_thread(Retrying(**QUICK)(both_on_this_thread), "x")  # type: ignore[arg-type]
    assert result == "x run 1run 2"
    assert counting.runs == 1
    assert server.seen.of("First")[0] == server.seen.of("First")[1]
    assert server.seen.of("Do")[0] == server.seen.of("Do")[1] != server.seen.of("First")[0]


async def test_retries_may_be_nested(net: Net) -> None:
    """A retry within a retry keeps its keys in each attempt of both."""
    server = await net.serve({"Do": Failing(grpc.StatusCode.UNAVAILABLE, 3)})
    client = await net.client(server.target)

    async def inner() -> str:
        return await client.retry("Do", attempts=2, **QUICK)

    def inner_on_this_thread() -> str:
        return str(Retrying(attempts=2, **QUICK).call(client.stub("Do"), text("")).value)  # type: ignore[arg-type]

    assert await client.retried(inner if net.kind == "async" else inner_on_this_thread, **QUICK) == "run 4"
    assert len(server.seen.of()) == 4
    assert len(set(server.seen.of())) == 1


async def test_nothing_is_retried_without_a_key(net: Net) -> None:
    """Over a channel that gives no keys a failed call is not made again, and that is told."""
    server = await net.serve({"Do": Failing(grpc.StatusCode.UNAVAILABLE)})
    client = await net.client(server.target, plain=True)
    with pytest.raises(UnkeyedRetry, match="make the channel with") as told:
        await client.retry("Do", **QUICK)
    assert isinstance(told.value.__cause__, grpc.RpcError)
    assert len(server.seen.calls) == 1


async def test_other_errors_are_not_retried(net: Net) -> None:
    """An error that is no server's answer is raised to the caller, without a retry."""
    tries = 0

    def fails() -> Any:
        nonlocal tries
        tries += 1
        raise ValueError("mine")

    client = await net.client("127.0.0.1:1")
    with pytest.raises(ValueError, match="mine"):
        await client.retried(fails, **QUICK)
    assert tries == 1


async def test_an_iterator_is_refused(net: Net) -> None:
    """A stream of requests is refused, since the first attempt would use it up."""
    client = await net.client("127.0.0.1:1")
    with pytest.raises(TypeError, match="Pass a list"):
        await client.retried(client.stub("Join", "stream_unary"), iter([text("a")]))


def test_generators_are_refused() -> None:
    """A generator does nothing when it is called, so that there would be nothing to retry."""

    def generator() -> Any:
        yield

    with pytest.raises(TypeError, match="AsyncRetrying decorates"):
        AsyncRetrying()(generator)
    with pytest.raises(TypeError, match="Retrying decorates"):
        Retrying()(generator)


WRONG = (timedelta(0), -MS, timedelta.max, 5, float("nan"), True)


@pytest.mark.parametrize(
    "option",
    [
        *[{name: value} for name in ("deadline", "attempt_timeout", "backoff") for value in WRONG],
        *[{"max_backoff": value} for value in (*WRONG[1:], None)],
        *[{"attempts": value} for value in (0, -1, 2.0, True)],
        *[{"codes": value} for value in (None, "UNAVAILABLE", grpc.StatusCode.UNAVAILABLE, [14])],
    ],
)
def test_limits_that_cannot_be_met_are_told(option: dict[str, Any]) -> None:
    """A mistake in the configuration raises, and names what is wrong."""
    with pytest.raises(PolicyError, match=next(iter(option))):
        Retrying(**option)


async def test_a_server_that_is_killed_and_comes_back(net: Net, tmp_path: Path) -> None:
    """A call whose server is killed in the middle ends with one effect, once a server is on its port again."""
    database = tmp_path / "service.db"
    first = Process(str(database), str(tmp_path / "effects"))
    second: Process | None = None
    try:
        target = await first.ready()
        client = await net.client(target)
        calling = asyncio.create_task(client.retry("Insert", "hang", max_backoff=300 * MS))
        await first.line("began hang")
        first.kill()
        second = Process(str(database), str(tmp_path / "effects"), target.rsplit(":", 1)[1])
        assert await asyncio.wait_for(calling, 40) == "row 1"
        with closing(sqlite3.connect(database)) as db:
            assert db.execute("SELECT value FROM things").fetchall() == [("hang",)]
    finally:
        first.discard()
        if second is not None:
            second.discard()


def test_nothing_shares_pythons_generator() -> None:
    """No delay comes from Python's shared generator, which an embedder may have seeded alike in every process."""
    package = Path(grpc_idempotency.__file__).parent
    shared = re.compile(r"(?<!\.)\brandom\.(?!SystemRandom|Random\b)")
    users = [path.name for path in package.rglob("*.py") if shared.search(path.read_text())]
    assert users == []
