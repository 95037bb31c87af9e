"""The tutorial's client: charges a card under the key of its command line."""

import sys

import grpc
import payments_pb2
import payments_pb2_grpc

key, cents = sys.argv[1], int(sys.argv[2])
with grpc.insecure_channel("127.0.0.1:50051") as channel:
    stub = payments_pb2_grpc.PaymentsStub(channel)
    request = payments_pb2.ChargeRequest(card="card-1", cents=cents)
    try:
        reply, call = stub.Charge.with_call(request, metadata=(("idempotency-key", key),), timeout=10)
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
    print("receipt", reply.receipt, dict(call.trailing_metadata()))
