"""Whose keys they are (3.1): what is known of a caller, and the functions that make a principal of it."""

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from grpc_idempotency import _checks
from grpc_idempotency.errors import PolicyError

_log = logging.getLogger("grpc_idempotency")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """What is known of who called, taken when the call came in."""

    method: str
    """``/package.Service/Method``."""
    metadata: Sequence[tuple[str, str | bytes]]
    """The invocation metadata, as it came. Not verified by anybody unless an interceptor outside ours has done so."""
    peer: str
    """The peer's address, as gRPC writes it. It is no identity: it changes between a call and its retry."""
    peer_identity_key: str | None
    """Which property of the transport's credentials identifies the peer; ``None`` where they were not verified."""
    peer_identities: Sequence[bytes]
    """The verified identities of the peer; empty where there are none."""
    auth_context: Mapping[str, Iterable[bytes]]
    """All properties of the transport's credentials."""


PrincipalFunction = Callable[[Caller], str | bytes | None]
"""Names the principal of a caller. Where it returns ``None``, an empty name, or anything but text and bytes, the keyed
call is refused (``PRINCIPAL_REQUIRED``).

It is a plain function, and runs before anything else, in the call's own context. What it returns goes into a digest; it
is stored itself only with the request of an operation that may be finished without its client, until that is completed.
Never return a raw token: it changes when it is refreshed, and a retry would then run again.
"""

SHARED = b"shared"
"""The one scope of all callers without a verified identity."""


def mtls_or_shared(caller: Caller) -> bytes:
    """The verified mTLS identity where there is one, else one scope that all share. The default."""
    if caller.peer_identity_key is None or not caller.peer_identities:
        return SHARED
    return b"mtls:" + _framed(caller.peer_identity_key.encode(), *sorted(caller.peer_identities))


def principal_of(function: PrincipalFunction, caller: Caller) -> bytes:
    """The caller's principal; empty where there is none, or nothing that can be one: then the call fails closed."""
    try:
        principal: object = function(caller)
    except Exception:
        _log.exception("the principal function failed for a call to %s; it is refused", caller.method)
        return b""
    if principal is None or isinstance(principal, bytes):
        return principal or b""
    if isinstance(principal, str):
        with suppress(UnicodeEncodeError):  # its text quotes the principal
            return principal.encode()
    _discard(principal)
    _log.error(
        "the principal function answered with %s that is no name: text in UTF-8, or bytes; a call to %s is refused",
        type(principal).__name__,
        caller.method,
    )
    return b""


def _discard(answer: object) -> None:
    """Closes a coroutine that a function returned, so that Python does not warn that nobody has awaited it."""
    if inspect.iscoroutine(answer):
        answer.close()


def token_subject(
    verify: Callable[[str], Mapping[str, Any]], *, header: str = "authorization"
) -> Callable[[Caller], bytes | None]:
    """Makes a principal function that names a caller by issuer and subject of a bearer token, once it is verified.

    A caller keeps its principal when its token is refreshed, and two issuers' subjects never meet. Whoever has no such
    token has no principal, so that a keyed call of theirs is refused (``PRINCIPAL_REQUIRED``).

    Args:
        verify: Gets the token and answers its claims, or raises where it is not valid: signature, expiry, audience and
            issuer are its to check. It runs on the event loop of an aio server, so it must not block. ``sub`` has to
            be among the claims; ``iss`` may be missing where there is one issuer only.
        header: The metadata name the token comes in: behind the scheme ``Bearer`` in ``authorization``, alone in any
            other. It has to come once.
    """
    if not header or header != header.lower() or header.endswith("-bin"):
        raise PolicyError(f"token_subject: {header!r} is not a lower-case metadata name for text.")
    _checks.plain_function("token_subject: verify", verify)

    def principal(caller: Caller) -> bytes | None:
        token = _token(caller, header)
        if not token:
            return None
        try:
            claims: object = verify(token)
        except Exception as exc:
            # Not its text, which may quote the token.
            _log.warning("the token of a call to %s is not verified: %s", caller.method, type(exc).__name__)
            return None
        if not isinstance(claims, Mapping):
            _discard(claims)
            raise TypeError(f"verify answered with {type(claims).__name__}, not with claims")
        subject, issuer = claims["sub"], claims.get("iss", "")
        if not (isinstance(subject, str) and subject and isinstance(issuer, str)):
            raise ValueError("the claims of a verified token have no sub, or one that is no text, or such an iss")
        return b"token:" + _framed(issuer.encode(), subject.encode())

    return principal


def _token(caller: Caller, header: str) -> str:
    """The one token that came, or nothing."""
    values = [value for name, value in caller.metadata if name == header]
    if len(values) != 1 or not isinstance(values[0], str):
        return ""
    if header != "authorization":
        return values[0].strip()
    scheme, _, token = values[0].strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _framed(*parts: bytes) -> bytes:
    """Parts with their lengths, so that no two lists of parts are one text."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)
