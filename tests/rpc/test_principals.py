"""Whose key it is (3.1, 3.3)."""

import logging
import uuid
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest
import trustme
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Caller, token_subject
from grpc_idempotency.transactions import running_operation

from ..harness.clients import Client
from ..harness.handlers import EACH_SERVER, Counting
from ..harness.replies import new_key, refused, text
from ..harness.servers import Servers

KINDS = EACH_SERVER

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


def user(caller: Caller) -> str | bytes | None:
    """The principal as an interceptor outside ours would have verified it."""
    return dict(caller.metadata).get("x-user")


def of(name: str) -> list[tuple[str, str | bytes]]:
    return [("x-user", name)]


async def test_two_principals_never_meet(serve: Servers) -> None:
    """Two principals with the same key are two operations, whatever they ask for (3.3)."""
    handler = Counting()
    service = await serve({"Do": handler}, principal=user)
    key = new_key()
    assert (await service.call("Do", "for ann only", key=key, metadata=of("ann"))).mark == "executed"
    assert (await service.call("Do", "for bob only", key=key, metadata=of("bob"))).mark == "executed"
    assert (await service.call("Do", "for ann only", key=key, metadata=of("ann"))).mark == "replayed"
    assert handler.runs == 2


async def test_somebody_elses_key_is_an_unknown_key(serve: Servers) -> None:
    """Someone else's key and an unknown key can't be told apart (3.3)."""
    service = await serve({"Do": Counting()}, principal=user)
    taken = new_key()
    await service.call("Do", key=taken, metadata=of("ann"))
    replies = [await service.call("Do", key=key, metadata=of("bob")) for key in (taken, new_key())]
    assert replies[0].trailers == replies[1].trailers
    assert replies[0].status is replies[1].status


async def test_two_methods_never_meet(serve: Servers) -> None:
    """Two methods with the same key are two operations (3.3)."""
    one, other = Counting(), Counting()
    service = await serve({"One": one, "Other": other})
    key = new_key()
    assert (await service.call("One", key=key)).mark == "executed"
    assert (await service.call("Other", key=key)).mark == "executed"
    assert (one.runs, other.runs) == (1, 1)


@pytest.mark.parametrize("split", [("a", "bc"), ("ab", "c")])
async def test_names_are_length_framed(serve: Servers, split: tuple[str, str]) -> None:
    """Principal and key are framed: ``a`` + ``bc`` is another operation than ``ab`` + ``c`` (3.1)."""
    service = await serve({"Do": Counting()}, principal=user)
    for principal, key in (("a", "bc"), ("ab", "c")):
        assert (await service.call("Do", key=key, metadata=of(principal))).mark == "executed"
    principal, key = split
    assert (await service.call("Do", key=key, metadata=of(principal))).mark == "replayed"


@pytest.mark.parametrize("nothing", [None, "", b""])
async def test_no_principal_fails_closed(serve: Servers, nothing: str | bytes | None) -> None:
    """A scope function that returns nothing makes the keyed call fail closed; an un-keyed one has no scope (3.1)."""
    handler = Counting()
    service = await serve({"Do": handler}, principal=lambda _: nothing)
    refused(await service.call("Do", key=new_key()), "PRINCIPAL_REQUIRED", UNAUTHENTICATED)
    assert handler.runs == 0
    assert (await service.call("Do")).mark is None


async def test_a_scope_function_that_raises_fails_closed(serve: Servers, caplog: pytest.LogCaptureFixture) -> None:
    """A scope function that raises has the call refused; its text goes to the log and not to the client (3.1)."""

    def broken(_caller: Caller) -> str:
        raise LookupError("the directory at ldap.internal is down")

    handler = Counting()
    service = await serve({"Do": handler}, principal=broken)
    reply = await service.call("Do", key=new_key())
    refused(reply, "PRINCIPAL_REQUIRED", UNAUTHENTICATED)
    assert "ldap" not in reply.details
    assert handler.runs == 0
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR and r.name == "grpc_idempotency"]
    assert record.exc_info
    assert "ldap" in str(record.exc_info[1])


async def who(_caller: Caller) -> str:
    return "ann"


@pytest.mark.parametrize(
    "answer",
    [5, 2**62, True, 1.5, uuid.UUID(int=5), ["ann"], bytearray(b"ann"), object(), "\ud800", who],
    ids=lambda answer: type(answer).__name__,
)
async def test_what_is_no_name_fails_closed(serve: Servers, caplog: pytest.LogCaptureFixture, answer: Any) -> None:
    """Only text and bytes name anybody. All else refuses the call; the log tells its type alone (3.1)."""
    handler = Counting()
    service = await serve({"Do": handler}, principal=lambda caller: answer(caller) if answer is who else answer)
    refused(await service.call("Do", key=new_key()), "PRINCIPAL_REQUIRED", UNAUTHENTICATED)
    assert handler.runs == 0
    # The handlers of earlier tests may still end in their threads, and are told of in the log.
    (record,) = [r for r in caplog.records if r.getMessage().startswith("the principal function returned")]
    assert record.levelno == logging.ERROR
    assert "coroutine" if answer is who else type(answer).__name__ in record.getMessage()
    assert not record.exc_info


async def test_claims_that_would_have_to_be_awaited(serve: Servers) -> None:
    """A token's check that answers with a coroutine verifies nobody (3.1)."""

    async def claims() -> dict[str, str]:
        return {"sub": "ann"}

    service = await serve({"Do": Counting()}, principal=token_subject(lambda _token: claims()))  # type: ignore[arg-type,return-value]  # the mistake under test
    reply = await service.call("Do", key=new_key(), metadata=[("authorization", "Bearer t")])
    refused(reply, "PRINCIPAL_REQUIRED", UNAUTHENTICATED)


async def test_what_a_scope_function_is_told(serve: Servers) -> None:
    """The scope function sees the method, the metadata as it came, and what the transport verified (3.1)."""
    callers: list[Caller] = []

    def principal(caller: Caller) -> str:
        callers.append(caller)
        return "one"

    service = await serve({"Do": Counting()}, principal=principal)
    await service.call("Do", key=new_key(), metadata=[("x-a", "1"), ("x-a", "2"), ("x-b-bin", b"\x00\xff")])
    (caller,) = callers
    assert caller.method == "/test.Service/Do"
    wanted = [("x-a", "1"), ("x-a", "2"), ("x-b-bin", b"\x00\xff")]
    assert [entry for entry in caller.metadata if entry[0].startswith("x-")] == wanted
    assert caller.peer.startswith("ipv4:127.0.0.1:")
    assert (caller.peer_identity_key, caller.peer_identities) == (None, ())


async def test_the_default_scope_is_no_address(serve: Servers) -> None:
    """Without a verified identity all callers share one scope: a retry over another connection replays (3.1)."""
    handler = Counting()
    service = await serve({"Do": handler})
    key = new_key()
    assert (await service.call("Do", key=key)).mark == "executed"
    other = await serve.client(service.target)
    assert (await other.call("Do", key=key)).mark == "replayed"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def certified(authority: trustme.CA) -> Callable[[str], grpc.ChannelCredentials]:
    """Makes the credentials of a client who can prove to be somebody."""

    def credentials(name: str) -> grpc.ChannelCredentials:
        cert = authority.issue_cert(name)
        chain = b"".join(blob.bytes() for blob in cert.cert_chain_pems)
        return grpc.ssl_channel_credentials(authority.cert_pem.bytes(), cert.private_key_pem.bytes(), chain)

    return credentials


async def test_the_default_scope_is_the_mtls_identity(
    serve: Servers, authority: trustme.CA, certified: Callable[[str], grpc.ChannelCredentials]
) -> None:
    """Over mTLS the verified identity is the principal: a key belongs to it, over whatever connection (3.1, 3.3)."""
    identities: list[Any] = []

    async def do(_request: Any, context: Any) -> StringValue:
        identities.append((context.peer_identity_key(), context.peer_identities()))
        return text(f"run {len(identities)}")

    cert = authority.issue_cert("127.0.0.1")
    chain = b"".join(blob.bytes() for blob in cert.cert_chain_pems)
    server_credentials = grpc.ssl_server_credentials(
        [(cert.private_key_pem.bytes(), chain)], authority.cert_pem.bytes(), require_client_auth=True
    )
    service = await serve({"Do": do}, credentials=server_credentials)
    port = service.target.rpartition(":")[2]

    async def calls(name: str, key: str) -> Any:
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", certified(name)) as channel:
            return await Client(channel).call("Do", key=key)

    key = new_key()
    ann, bob, ann_again = [await calls(f"{who}.example", key) for who in ("ann", "bob", "ann")]
    assert [reply.mark for reply in (ann, bob, ann_again)] == ["executed", "executed", "replayed"]
    assert (ann.text, bob.text, ann_again.text) == ("run 1", "run 2", "run 1")
    # As gRPC's own contexts answer.
    assert identities == [
        ("x509_subject_alternative_name", [b"ann.example"]),
        ("x509_subject_alternative_name", [b"bob.example"]),
    ]


async def test_a_secret_changes_the_names(serve: Servers) -> None:
    """With a secret the stored digests are HMACs: another secret, or none, gives others (3.1)."""
    key = new_key()
    services = [
        await serve({"Do": Counting()}, secret=secret)
        for secret in (None, b"one secret of many", b"another secret of many")
    ]
    for service in services:
        assert (await service.call("Do", key=key)).mark == "executed"
        assert (await service.call("Do", key=key)).mark == "replayed"
    records = await services[0].records()
    assert len({record.name for record in records}) == 3
    assert len({record.fingerprint.raw for record in records}) == 3


async def test_the_handler_knows_its_operation(serve: Servers) -> None:
    """In a keyed call the handler can ask for its operation; in an un-keyed one there is none (5)."""
    seen: list[Any] = []

    async def do(_request: Any, _context: Any) -> StringValue:
        seen.append(running_operation())
        return text("ok")

    service = await serve({"Do": do})
    await service.call("Do", key=new_key())
    await service.call("Do")
    record = await service.the_record()
    assert (seen[0].name, seen[0].fence, seen[0].attempt) == (record.name, record.fence, 1)
    assert seen[1] is None
