"""The shop as ``python -m shop`` serves it, but for an interceptor that ignores keys: what the demo must find broken."""

import runpy
from typing import Any

import shop.server
from grpc_idempotency.aio import IdempotencyInterceptor


class Forgetful(IdempotencyInterceptor):
    """Lets every call through as if it had no key."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        return await continuation(handler_call_details)


if __name__ == "__main__":
    shop.server.IdempotencyInterceptor = Forgetful  # type: ignore[misc]  # in place of the real one
    runpy.run_module("shop", run_name="__main__")
