"""From what came in to a keyed call or a refusal, in the order of the table (2.3). Shared by both kinds of server."""

import logging
import time
from typing import Any

from grpc_idempotency._context import Snapshot
from grpc_idempotency._effects import Call
from grpc_idempotency._methods import REQUEST_ID, Method
from grpc_idempotency._refusals import Reason, Refusal
from grpc_idempotency._wire import InvalidKey, digest_name, find_key, fingerprint, parse_key
from grpc_idempotency.principals import PrincipalFunction

logger = logging.getLogger("grpc_idempotency")


class Admission:
    """Decides whether a call is keyed, and under which name."""

    def __init__(self, principal: PrincipalFunction, secret: bytes | None) -> None:
        self._principal = principal
        self._secret = secret

    def admit(self, method: Method, snapshot: Snapshot, raw: bytes, message: Any) -> Call | Refusal | None:
        """The keyed call, the refusal it gets instead, or ``None`` where no key came and none is asked for.

        ``raw`` is the request as it came, ``message`` what the handler will see of it.
        """
        key = self._key(method, snapshot, message)
        if key is None or isinstance(key, Refusal):
            return key
        principal = self._identify(snapshot)
        if not principal:
            return Refusal(reason=Reason.PRINCIPAL_REQUIRED, variables={"method": method.name})
        return Call(
            name=digest_name(principal, method.name, key, self._secret),
            method=method.name,
            fingerprint=fingerprint(raw, message, self._secret),
            policy=method.policy,
            until=wait_until(method, snapshot),
        )

    def _key(self, method: Method, snapshot: Snapshot, message: Any) -> str | Refusal | None:
        field = method.policy.headers[0]
        try:
            key = find_key(snapshot.caller.metadata, method.policy.headers)
            request_id = getattr(message, REQUEST_ID, "") if method.has_request_id else ""
            if request_id:
                field = REQUEST_ID
                parsed = parse_key(request_id)
                if key is not None and key != parsed:
                    raise InvalidKey("another key came in the metadata, and the two differ")
                key = parsed
        except InvalidKey as exc:
            return Refusal(reason=Reason.KEY_INVALID, variables={"field": field, "problem": str(exc)})
        if key is None and method.policy.required:
            return Refusal(reason=Reason.KEY_REQUIRED, variables={"field": field, "method": method.name})
        return key

    def _identify(self, snapshot: Snapshot) -> bytes:
        try:
            principal = self._principal(snapshot.caller)
        except Exception:
            logger.exception("the principal function failed for a call to %s; it is refused", snapshot.caller.method)
            return b""
        return principal.encode() if isinstance(principal, str) else bytes(principal or b"")


def wait_until(method: Method, snapshot: Snapshot) -> float:
    """When a duplicate has waited long enough (4.3), on the clock of ``time.monotonic``."""
    until = time.monotonic() + method.policy.wait.total_seconds()
    if snapshot.deadline is not None:
        until = min(until, snapshot.deadline - method.policy.wait_margin.total_seconds())
    return until
