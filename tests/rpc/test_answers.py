"""Methods that the interceptor leaves alone, with a key or without (2.4, 7)."""

import pytest

from ..harness.handlers import Counting
from ..harness.replies import new_key
from ..harness.servers import Servers


async def test_an_unknown_method_is_unimplemented(serve: Servers) -> None:
    """A method that the server does not have is answered as ever, with a key and without (2.4)."""
    service = await serve({"Do": Counting()})
    assert await service.call("Undo", key=new_key()) == await service.call("Undo")


@pytest.mark.parametrize("kind", ["async"])
async def test_a_method_without_side_effects_passes_through(serve: Servers) -> None:
    """A method that its proto marks NO_SIDE_EFFECTS passes through, key or no key (7)."""
    from google.protobuf import descriptor_pb2, descriptor_pool

    package = "test.rpc.reads"
    pool = descriptor_pool.Default()
    file = descriptor_pb2.FileDescriptorProto(name="test/rpc/reads.proto", package=package, syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    string = ".google.protobuf.StringValue"
    method = file.service.add(name="Service").method.add(name="Get", input_type=string, output_type=string)
    method.options.idempotency_level = descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
    pool.Add(file)
    handler = Counting()
    service = await serve({"Get": handler}, service=f"{package}.Service")
    key = new_key()
    assert [(await service.call("Get", key=key)).mark for _ in range(2)] == [None, None]
    assert handler.runs == 2
