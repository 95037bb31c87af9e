"""Methods with streams."""

import pytest

from .conftest import COUNT, Serve, run_check

pytestmark = pytest.mark.slow

SERVICE = "check.payments.v1.Payments"
REQUEST = ("--request", '{"payer": "{{marker}}"}')


@pytest.mark.parametrize(("kind", "verdict"), [("aio", "passed"), ("sync", "passed"), ("bare", "failed")])
def test_a_stream_of_replies(kind: str, verdict: str, serve: Serve) -> None:
    """A client that left a stream gets all of it from its retry, with one effect."""
    ended = run_check(serve(kind), "--method", f"{SERVICE}/PayInParts", *REQUEST, *COUNT, "--trials", "10", "--json")
    assert ended.verdicts["reply-stream"] == verdict, ended.out
    assert ended.code == (0 if verdict == "passed" else 1), ended.out


@pytest.mark.parametrize(("kind", "verdict"), [("aio", "passed"), ("sync", "passed"), ("bare", "failed")])
def test_a_stream_of_requests(kind: str, verdict: str, serve: Serve) -> None:
    """A part of a stream that broke off must not take effect. Such a call has as many effects as messages."""
    ended = run_check(
        serve(kind), "--method", f"{SERVICE}/PayAll", *REQUEST, *REQUEST, *REQUEST, *COUNT, "--trials", "10", "--json"
    )
    assert ended.verdicts["request-stream"] == verdict, ended.out
    assert ended.code == (0 if verdict == "passed" else 1), ended.out


def test_a_part_that_is_replayed_for_the_whole(serve: Serve) -> None:
    """A retry that gets only what was sent until the client left is found, though two retries get the same."""
    ended = run_check(
        serve("part-replayed"),
        *("--method", f"{SERVICE}/PayInParts", *REQUEST, *COUNT, "--only", "reply-stream", "--json"),
    )
    assert ended.verdicts == {"reply-stream": "failed"}, ended.out
    assert "a retry got 1 messages, where a stream has 4" in ended.happened("reply-stream")


@pytest.mark.parametrize(("kind", "verdict"), [("aio", "passed"), ("first-message-compared", "failed")])
def test_every_message_of_a_stream_is_compared(kind: str, verdict: str, serve: Serve) -> None:
    """A key that comes again with a stream whose last message alone is another one is used for another request."""
    ended = run_check(
        serve(kind), *("--method", f"{SERVICE}/PayAll", *REQUEST, *REQUEST, *COUNT, "--only", "other-body", "--json")
    )
    assert ended.verdicts == {"other-body": verdict}, ended.out


@pytest.mark.parametrize(("kind", "verdict"), [("aio", "passed"), ("sync", "passed"), ("bare", "failed")])
def test_streams_both_ways(kind: str, verdict: str, serve: Serve) -> None:
    """A bidirectional call is refused with a key, and then no other probe applies; or it is not safe."""
    ended = run_check(serve(kind), "--method", f"{SERVICE}/Haggle", *REQUEST, *COUNT, "--trials", "10", "--json")
    assert ended.verdicts["both-streams"] == verdict, ended.out
    assert (set(ended.verdicts) == {"both-streams"}) == (verdict == "passed")
