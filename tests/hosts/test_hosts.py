"""Servers on two hosts, with nothing in common but an engine (4.1, 4.2, 4.3, 4.5)."""

import asyncio
import itertools
import signal
from collections import Counter

import grpc
import pytest

from ..harness.clients import Client
from ..harness.relay import Relay
from ..harness.replies import Reply, new_key, refused
from ..harness.servers import Servers
from .conftest import ONE_SERVER, Host, Start

pytestmark = pytest.mark.slow

_AT_ONCE = 64


async def two(serve: Servers, start: Start, url: str) -> tuple[list[Host], list[Client]]:
    hosts = [start(url), start(url)]
    return hosts, [await serve.client(await host.ready()) for host in hosts]


async def test_overlapping_attempts_at_two_hosts_have_one_effect(serve: Servers, start: Start, url: str) -> None:
    """1,000 keys, each with four attempts at once, two at each host: 1,000 effects, and one reply to each key."""
    hosts, clients = await two(serve, start, url)
    turns = asyncio.Semaphore(_AT_ONCE)

    async def order(number: int) -> None:
        key, name = new_key(), f"order {number}"
        async with turns:
            replies = await asyncio.gather(*(clients[n % 2].call("Append", name, key=key) for n in range(4)))
        assert {reply.status for reply in replies} == {grpc.StatusCode.OK}
        assert len({reply.text for reply in replies}) == 1
        assert [reply.mark for reply in replies].count("executed") == 1

    await asyncio.gather(*(order(number) for number in range(1000)))
    effects = [host.effects for host in hosts]
    assert Counter(effects[0] + effects[1]) == {f"order {number}": 1 for number in range(1000)}
    assert all(effects), "only one host has executed anything"
    for host in hosts:
        host.terminate()
        assert await host.ended() == 0


async def test_a_host_that_was_stopped_past_its_lease_changes_nothing(serve: Servers, start: Start, url: str) -> None:
    """A repeatable operation is taken over. When its first host goes on, it answers with what the other has stored."""
    (one, other), (client, elsewhere) = await two(serve, start, url)
    key = new_key()
    first = client.start("Repeat", "an order", key=key)
    await one.line("began an order")
    one.send(signal.SIGSTOP)
    reply = await elsewhere.call("Repeat", "an order", key=key)
    assert (reply.status, reply.mark) == (grpc.StatusCode.OK, "executed")
    one.send(signal.SIGCONT)
    await client.call("Let", key=new_key())
    slow = await first.end()
    assert (slow.plain, slow.mark) == (reply.plain, "replayed")
    again = await client.call("Repeat", "an order", key=key)
    assert (again.plain, again.mark) == (reply.plain, "replayed")
    assert len(one.effects + other.effects) <= 2


async def test_a_host_that_was_only_slow_resolves_what_is_held(serve: Servers, start: Start, url: str) -> None:
    """An opaque operation is held when its host is stopped past its lease. The host's own outcome is then the truth."""
    (one, other), (client, elsewhere) = await two(serve, start, url)
    key = new_key()
    first = client.start("Opaque", "an order", key=key)
    await one.line("began an order")
    one.send(signal.SIGSTOP)
    refused(await elsewhere.call("Opaque", "an order", key=key), "OUTCOME_UNKNOWN", grpc.StatusCode.FAILED_PRECONDITION)
    one.send(signal.SIGCONT)
    await client.call("Let", key=new_key())
    reply = await first.end()
    assert (reply.status, reply.mark) == (grpc.StatusCode.OK, "executed")
    again = await elsewhere.call("Opaque", "an order", key=key)
    assert (again.plain, again.mark) == (reply.plain, "replayed")
    assert (one.effects, other.effects) == (["an order"], [])


async def test_a_live_host_holds_what_a_dead_one_has_left(serve: Servers, start: Start, url: str) -> None:
    """Kill -9 of a host in an opaque handler: the other one says that the outcome is unknown."""
    (one, other), (client, elsewhere) = await two(serve, start, url)
    key = new_key()
    call = client.start("Opaque", "an order", key=key)
    await one.line("began an order")
    one.kill()
    assert (await call.end()).status is grpc.StatusCode.UNAVAILABLE
    for _ in range(2):
        reply = await elsewhere.call("Opaque", "an order", key=key)
        refused(reply, "OUTCOME_UNKNOWN", grpc.StatusCode.FAILED_PRECONDITION)
    assert (one.effects, other.effects) == ([], [])


@pytest.mark.parametrize("url", ONE_SERVER, indirect=True)
async def test_connections_that_are_cut_double_nothing(
    serve: Servers, start: Start, relayed_url: str, relay: Relay
) -> None:
    """Two hosts lose their connections again and again in the middle of calls. No effect comes twice.

    Retries end in one reply to each key, or in the refusal that says that its outcome is unknown.
    """
    hosts, clients = await two(serve, start, relayed_url)
    turns, answers = asyncio.Semaphore(_AT_ONCE), itertools.count(1)

    async def ask(client: Client, name: str, key: str) -> Reply:
        while True:
            reply = await client.call("Append", name, key=key)
            if next(answers) % 20 == 0:
                relay.cut()
            if reply.status is not grpc.StatusCode.UNAVAILABLE:
                return reply

    async def order(number: int) -> bool:
        key, name = new_key(), f"order {number}"
        async with turns:
            replies = await asyncio.gather(*(ask(clients[n % 2], name, key) for n in range(4)))
        told = {reply.text for reply in replies if reply.status is grpc.StatusCode.OK}
        for reply in replies:
            if reply.status is not grpc.StatusCode.OK:
                refused(reply, "OUTCOME_UNKNOWN", grpc.StatusCode.FAILED_PRECONDITION)
        effects = [line for host in hosts for line in host.effects if line == name]
        assert len(told) <= 1
        assert len(told) <= len(effects) <= 1
        return bool(told)

    known = await asyncio.gather(*(order(number) for number in range(300)))
    assert sum(known) > 250, "the outcomes of most calls are known, since their hosts live"
