"""The tutorial's server: charges cards, once per key."""

import asyncio
import itertools
import os
import signal

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
    # Without so_reuseport=0 a second server on the same port starts too, and the first one goes on answering.
    server = grpc.aio.server(interceptors=[interceptor], options=[("grpc.so_reuseport", 0)])
    interceptor.attach(server)
    payments_pb2_grpc.add_PaymentsServicer_to_server(Payments(), server)
    server.add_insecure_port("127.0.0.1:50051")
    await server.start()
    print("serving on 127.0.0.1:50051", flush=True)

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await server.stop(grace=5)


if __name__ == "__main__":
    asyncio.run(serve())
