"""``python -m shop.demo.till``: a server that charges cards at a provider, which knows no keys.

Nobody can know whether the provider has charged a card whose answer was lost. So its method is opaque, the default: if
the server dies in the middle of a call, the operation is held.
"""

import asyncio
import os
from datetime import timedelta
from typing import Any

import grpc.aio

from grpc_idempotency import Policy
from grpc_idempotency.aio import IdempotencyInterceptor, serve, store_from_url
from shop.users.v1.users_pb2 import AddCreditRequest, User
from shop.users.v1.users_pb2_grpc import UserServiceServicer, add_UserServiceServicer_to_server

Context = grpc.aio.ServicerContext[Any, Any]
_LEASE = timedelta(seconds=2)


class Till(UserServiceServicer):
    """Adds credit that is paid by card.

    Args:
        provider: HOST:PORT of the payment provider.
    """

    def __init__(self, provider: str) -> None:
        self._provider = provider

    async def AddCredit(self, request: AddCreditRequest, context: Context) -> User:
        """Charges the card, and returns the user with the credit."""
        host, _, port = self._provider.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        amount = request.amount
        writer.write(
            f"{request.user_id} {amount.units}.{amount.nanos // 10_000_000:02} {amount.currency_code}\n".encode()
        )
        await reader.readline()
        writer.close()
        return User(id=request.user_id, balance=amount)


async def main() -> None:
    """Serves until SIGTERM."""
    policy = Policy(lease=_LEASE, renew_every=_LEASE / 3)
    interceptor = IdempotencyInterceptor(store_from_url(os.environ["TILL_STORE"]), policy=policy)
    server = grpc.aio.server(interceptors=[interceptor])
    interceptor.attach(server)
    add_UserServiceServicer_to_server(Till(os.environ["TILL_PROVIDER"]), server)
    print(f"listening on 127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", flush=True)
    await serve(server)


if __name__ == "__main__":
    asyncio.run(main())
