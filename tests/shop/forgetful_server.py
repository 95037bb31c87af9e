"""The shop as ``python -m shop`` serves it, but its interceptor ignores keys: what the demo must find broken."""

import runpy
from typing import Any

import shop.server
from grpc_idempotency.aio import IdempotencyInterceptor


class Forgetful(IdempotencyInterceptor):
    """Lets every call through as if it had no key."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        return await continuation(handler_call_details)


if __name__ == "__main__":
    vars(shop.server)["IdempotencyInterceptor"] = Forgetful
    runpy.run_module("shop", run_name="__main__")
