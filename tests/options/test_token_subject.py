"""A verified token's subject as the principal (3.1)."""

import logging
from collections.abc import Mapping
from typing import Any

import grpc
import pytest

from grpc_idempotency import Caller, PolicyError, token_subject

from .helpers import declare, rpc, served

TOKENS: dict[str, Mapping[str, Any]] = {
    "ann-1": {"iss": "https://id.example", "sub": "ann"},
    "ann-2": {"iss": "https://id.example", "sub": "ann"},
    "bob": {"iss": "https://id.example", "sub": "bob"},
    "other-ann": {"iss": "https://other.example", "sub": "ann"},
    "shifted": {"iss": "https://id.examplea", "sub": "nn"},
    "no-issuer": {"sub": "ann"},
    "no-subject": {"iss": "https://id.example"},
    "empty-subject": {"iss": "https://id.example", "sub": ""},
    "numbered": {"iss": "https://id.example", "sub": 7},
    "issuers": {"iss": ["https://id.example"], "sub": "ann"},
}


def verify(token: str) -> Mapping[str, Any]:
    if token not in TOKENS:
        raise PermissionError(f"the signature of {token} is wrong")
    return TOKENS[token]


def caller(*metadata: tuple[str, str | bytes]) -> Caller:
    return Caller(
        method="/a.B/C", metadata=metadata, peer="", peer_identity_key=None, peer_identities=(), auth_context={}
    )


def named(token: str) -> bytes | None:
    return token_subject(verify)(caller(("authorization", f"Bearer {token}")))


def test_a_refreshed_token_is_the_same_principal() -> None:
    """The principal is issuer and subject, so another token of theirs changes nothing; it is not the token (3.1)."""
    assert named("ann-1") == named("ann-2")
    assert b"ann-1" not in (named("ann-1") or b"")


def test_no_two_principals_have_one_name() -> None:
    """Another subject, another issuer, and parts that are split otherwise are others: names are length-framed (3.1)."""
    names = {named(token) for token in ("ann-1", "bob", "other-ann", "shifted", "no-issuer")}
    assert len(names) == 5
    assert None not in names


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", "")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", "ann-1")],
        [("authorization", "Basic ann-1")],
        [("authorization", "Bearer ann-1"), ("authorization", "Bearer bob")],
        [("authorization", "Bearer forged")],
        [("authorization", b"Bearer ann-1")],
        [("x-token", "Bearer ann-1")],
    ],
)
def test_who_has_no_token(metadata: list[tuple[str, str | bytes]]) -> None:
    """No token, several, another scheme, or one that does not verify: no principal (3.1)."""
    assert token_subject(verify)(caller(*metadata)) is None


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_scheme_is_written_as_one_likes(scheme: str) -> None:
    """Schemes are compared without regard to case, and spaces around a token are none of it (RFC 9110, 11.1)."""
    assert token_subject(verify)(caller(("authorization", f" {scheme}  ann-1 "))) == named("ann-1")


def test_another_header() -> None:
    """In a header other than authorization the token stands alone; the principal is the same."""
    principal = token_subject(verify, header="x-token")
    assert principal(caller(("x-token", "ann-1"))) == named("ann-1")
    assert principal(caller(("authorization", "Bearer ann-1"))) is None


@pytest.mark.parametrize("token", ["no-subject", "empty-subject", "numbered", "issuers"])
def test_claims_that_name_nobody(token: str) -> None:
    """A verified token without a subject is a mistake of the verifier's, and raises: the call fails closed (3.1)."""
    with pytest.raises((KeyError, ValueError)):
        named(token)


def test_what_cannot_be_met() -> None:
    """A verifier that would have to be awaited, and headers that never come so, are refused when they are given."""

    async def awaited(_token: str) -> Mapping[str, Any]:
        return {}

    unfit: Any = awaited
    with pytest.raises(PolicyError, match="not awaited"):
        token_subject(unfit)
    for header in ("Authorization", "token-bin", ""):
        with pytest.raises(PolicyError, match="metadata name"):
            token_subject(verify, header=header)


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_in_a_server(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """A key belongs to the subject, over a refreshed token; a forged one is refused, and is not in the log (3.1)."""
    key = ("idempotency-key", "a")
    async with served(kind, declare(rpc()), principal=token_subject(verify)) as server:
        replies = [await server.call(key, ("authorization", f"Bearer {token}")) for token in ("ann-1", "ann-2", "bob")]
        assert [reply.mark for reply in replies] == ["executed", "replayed", "executed"]
        reply = await server.call(key, ("authorization", "Bearer forged-token"))
        assert (reply.status, reply.mark) == (grpc.StatusCode.UNAUTHENTICATED, "refused")
        assert (
            await server.call(key, ("authorization", "Bearer no-subject"))
        ).status is grpc.StatusCode.UNAUTHENTICATED
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert ["PermissionError" in record.getMessage() for record in warned] == [True]
    assert "forged-token" not in caplog.text
