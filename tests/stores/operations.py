"""What the interceptors do around a handler, for tests of ``transaction``."""

import contextlib
from collections.abc import Callable, Iterator

from grpc_idempotency._steps import Steps
from grpc_idempotency.operation import Operation, enter
from grpc_idempotency.records import Claim, Code, Outcome
from grpc_idempotency.testing import TTL


def seal(reply: object) -> Outcome:
    return Outcome(status=Code.OK, message=str(reply).encode())


@contextlib.contextmanager
def keyed(store: object, claim: Claim, seal: Callable[[object], Outcome] = seal) -> Iterator[Operation]:
    """What the interceptor does around a handler."""
    operation = Operation(
        name=claim.name,
        method=claim.method,
        fence=claim.fence,
        attempt=1,
        principal=b"",
        store=store,
        ttl=TTL,
        steps=Steps((), unwinds=False),
        seal=seal,
    )
    enter(operation)
    try:
        yield operation
    finally:
        enter(None)
