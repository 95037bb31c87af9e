"""The tutorial's server: charges cards, once per key."""

import asyncio
import contextlib
import itertools
import os

import grpc.aio
import payments_pb2
import payments_pb2_grpc

from grpc_idempotency.aio import IdempotencyInterceptor, SQLiteStore


class Payments(payments_pb2_grpc.PaymentsServicer):
    def __init__(self):
        self._numbers = itertools.count(1)

    async def Charge(self, request, context):
        receipt = f"{os.getpid()}-{next(self._numbers)}"
        print(f"charging {request.card} {request.cents} cents: receipt {receipt}", flush=True)
        return payments_pb2.ChargeReply(receipt=receipt)


async def serve():
    interceptor = IdempotencyInterceptor(SQLiteStore("idempotency.db"))
    server = grpc.aio.server(interceptors=[interceptor])
    interceptor.attach(server)
    payments_pb2_grpc.add_PaymentsServicer_to_server(Payments(), server)
    server.add_insecure_port("127.0.0.1:50051")
    await server.start()
    try:
        await server.wait_for_termination()
    finally:
        await server.stop(grace=5)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())
