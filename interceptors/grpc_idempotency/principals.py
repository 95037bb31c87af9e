"""Whose keys they are (3.1): what is known of a caller, and the functions that make a principal of it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass


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
"""Names the principal of a caller. ``None`` or an empty name: the keyed call is refused (``PRINCIPAL_REQUIRED``).

It runs before anything else, in the call's own context; what it returns goes into a digest and is not stored. Never
return a raw token: it changes when it is refreshed, and a retry would then run again.
"""

SHARED = b"shared"
"""The one scope of all callers without a verified identity."""


def mtls_or_shared(caller: Caller) -> bytes:
    """The verified mTLS identity where there is one, else one scope that all share. The default."""
    if caller.peer_identity_key is None or not caller.peer_identities:
        return SHARED
    parts = [caller.peer_identity_key.encode(), *sorted(caller.peer_identities)]
    return b"mtls:" + b"".join(len(part).to_bytes(8, "big") + part for part in parts)
