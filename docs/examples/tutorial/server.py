"""The tutorial's server: charges cards, once per key."""

import asyncio
import itertools
import os

import grpc.aio
import payments_pb2
import payments_pb2_grpc

from grpc_idempotency.aio import IdempotencyInterceptor, SQLiteStore, serve


class Payments(payments_pb2_grpc.PaymentsServicer):
    def __init__(self):
        self._numbers = itertools.count(1)

    async def Charge(self, request, context):
        receipt = f"{os.getpid()}-{next(self._numbers)}"
        print(f"charging {request.card} {request.cents} cents: receipt {receipt}", flush=True)
        return payments_pb2.ChargeReply(receipt=receipt)


async def main():
    interceptor = IdempotencyInterceptor(SQLiteStore("idempotency.db"))
    # Without so_reuseport=0 a second server on the same port starts too, and the first one goes on answering.
    server = grpc.aio.server(interceptors=[interceptor], options=[("grpc.so_reuseport", 0)])
    interceptor.attach(server)
    payments_pb2_grpc.add_PaymentsServicer_to_server(Payments(), server)
    server.add_insecure_port("127.0.0.1:50051")
    print("serving on 127.0.0.1:50051", flush=True)
    await serve(server)


if __name__ == "__main__":
    asyncio.run(main())
