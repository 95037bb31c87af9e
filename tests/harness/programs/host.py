"""A server in a process of its own, as on a host of its own: ``python -m …host URL EFFECTS``.

It has nothing in common with other servers but the store with this URL. EFFECTS is a file of its own.
It prints ``listening on HOST:PORT``, and ``began NAME`` when a handler waits.
"""

import asyncio
import os
import random
import sys
from typing import Any

from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Effects, Policy
from grpc_idempotency.aio import IdempotencyInterceptor, current_operation, store_from_url

from ..handlers import full, generic_handler
from ..waiting import ms
from .serving import say, serve_until_told

_LEASE = Policy(lease=ms(1000), renew_every=ms(200))
_POLICIES = {
    full("Append"): Policy(),  # a host that is only busy keeps its operations
    full("Repeat"): Policy(effects=Effects.REPEATABLE, recover=False, lease=ms(1000), renew_every=ms(200)),
    full("Let"): Policy(effects=Effects.REPEATABLE),
}


class Handlers:
    """Handlers whose effects are lines in the host's own file."""

    def __init__(self, effects: str) -> None:
        self._file = os.open(effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._let = asyncio.Event()

    async def append(self, request: StringValue, _context: Any) -> StringValue:
        """Has its effect at once, and answers a little later."""
        reply = self._append(request)
        await asyncio.sleep(random.uniform(0, 0.02))
        return reply

    async def wait(self, request: StringValue, _context: Any) -> StringValue:
        """Has its effect once it is let; a second run does not wait."""
        operation = current_operation()
        assert operation is not None
        if operation.attempt == 1:
            say("began", request.value)
            await self._let.wait()
        return self._append(request)

    async def let(self, _request: StringValue, _context: Any) -> StringValue:
        """Lets the waiting handlers go on."""
        self._let.set()
        return StringValue()

    def _append(self, request: StringValue) -> StringValue:
        os.write(self._file, f"{request.value}\n".encode())
        return StringValue(value=f"{request.value} in {os.getpid()}")


async def main(url: str, effects: str) -> None:
    interceptor = IdempotencyInterceptor(store_from_url(url), policy=_LEASE, methods=_POLICIES)
    handlers = Handlers(effects)
    methods = {"Append": handlers.append, "Repeat": handlers.wait, "Opaque": handlers.wait, "Let": handlers.let}
    await serve_until_told("async", interceptor, generic_handler("async", methods))
    say("stopped")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
