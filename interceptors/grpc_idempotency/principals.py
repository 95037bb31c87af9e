"""Principals (3.1): what is known of a caller, and the functions that derive a principal from it."""

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
    """A caller, as it was known when the call came in."""

    method: str
    """``/package.Service/Method``."""
    metadata: Sequence[tuple[str, str | bytes]]
    """The invocation metadata, as it came. It is not verified unless an interceptor outside this one has done so."""
    peer: str
    """The peer's address, as gRPC writes it. It is not an identity: it changes between a call and its retry."""
    peer_identity_key: str | None
    """The property of the transport's credentials that identifies the peer; ``None`` if they were not verified."""
    peer_identities: Sequence[bytes]
    """The verified identities of the peer; empty if there are none."""
    auth_context: Mapping[str, Iterable[bytes]]
    """All properties of the transport's credentials."""


PrincipalFunction = Callable[[Caller], str | bytes | None]
"""A function that names the principal of a caller. If it returns ``None``, an empty name, or another type than text and
bytes, the keyed call is refused (``PRINCIPAL_REQUIRED``).

It is a plain function, and runs before anything else, in the call's own context. Its result goes into a digest. The
result itself is stored only with the request of an operation that may be finished without its client, until that
operation is completed. Never return a raw token: it changes when it is refreshed, and a retry would then run again.
"""

SHARED = b"shared"
"""The principal of all callers without a verified identity."""


def mtls_or_shared(caller: Caller) -> bytes:
    """Returns the verified mTLS identity if there is one, else one principal for all callers. The default.

    Args:
        caller: The caller.

    Returns:
        The principal.
    """
    if caller.peer_identity_key is None or not caller.peer_identities:
        return SHARED
    return mtls_principal(caller.peer_identity_key, caller.peer_identities)


def mtls_principal(peer_identity_key: str, peer_identities: Iterable[bytes]) -> bytes:
    """Returns the principal of a caller with a verified mTLS identity, as :func:`mtls_or_shared` does.

    Args:
        peer_identity_key: See :class:`Caller`.
        peer_identities: See :class:`Caller`.

    Returns:
        The principal.
    """
    return b"mtls:" + _framed(peer_identity_key.encode(), *sorted(peer_identities))


def principal_of(function: PrincipalFunction, caller: Caller) -> bytes:
    """Returns the caller's principal.

    Args:
        function: The embedder's principal function.
        caller: The caller.

    Returns:
        The principal; empty if the function named none or failed, so that the call is refused.
    """
    try:
        principal: object = function(caller)
    except Exception:
        _log.exception("the principal function failed for a call to %s; it is refused", caller.method)
        return b""
    if principal is None or isinstance(principal, bytes):
        return principal or b""
    if isinstance(principal, str):
        with suppress(UnicodeEncodeError):  # its text quotes the principal, and must not be logged
            return principal.encode()
    _discard(principal)
    _log.error(
        "the principal function returned %s, which is not a name (text in UTF-8, or bytes); a call to %s is refused",
        type(principal).__name__,
        caller.method,
    )
    return b""


def _discard(answer: object) -> None:
    """Closes a coroutine that a function returned, so that Python does not warn that it was never awaited."""
    if inspect.iscoroutine(answer):
        answer.close()


def token_subject(
    verify: Callable[[str], Mapping[str, Any]], *, header: str = "authorization"
) -> Callable[[Caller], bytes | None]:
    """Makes a principal function that names a caller by issuer and subject of a verified bearer token.

    A caller keeps its principal when its token is refreshed, and subjects of different issuers never collide. A caller
    without such a token has no principal, so that its keyed calls are refused (``PRINCIPAL_REQUIRED``).

    Args:
        verify: Takes the token and returns its claims, or raises if it is not valid. It has to check signature, expiry,
            audience and issuer. It runs on the event loop of an aio server, so it must not block. ``sub`` must be among
            the claims; ``iss`` may be missing if there is only one issuer.
        header: The metadata name in which the token comes: behind the scheme ``Bearer`` in ``authorization``, alone in
            any other. It must come exactly once.

    Returns:
        The principal function.

    Raises:
        PolicyError: ``header`` is not a lower-case metadata name for text, or ``verify`` is not a plain function.
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
            # The error's text is not logged, since it may quote the token.
            _log.warning("the token of a call to %s is not verified: %s", caller.method, type(exc).__name__)
            return None
        if not isinstance(claims, Mapping):
            _discard(claims)
            raise TypeError(f"verify returned {type(claims).__name__}, and not a mapping of claims")
        subject, issuer = claims["sub"], claims.get("iss", "")
        if not (isinstance(subject, str) and subject and isinstance(issuer, str)):
            raise ValueError("the claims of a verified token must have a text as sub, and as iss if there is one")
        return token_principal(subject, issuer=issuer)

    return principal


def token_principal(subject: str, *, issuer: str = "") -> bytes:
    """Returns the principal of a caller with a verified token, as the function of :func:`token_subject` does.

    Args:
        subject: The token's ``sub``.
        issuer: Its ``iss``; empty if it has none.

    Returns:
        The principal.
    """
    return b"token:" + _framed(issuer.encode(), subject.encode())


def _token(caller: Caller, header: str) -> str:
    """Returns the token, or an empty text if there is not exactly one."""
    values = [value for name, value in caller.metadata if name == header]
    if len(values) != 1 or not isinstance(values[0], str):
        return ""
    if header != "authorization":
        return values[0].strip()
    scheme, _, token = values[0].strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _framed(*parts: bytes) -> bytes:
    """Joins parts, each behind its length, so that different lists of parts give different bytes."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)
