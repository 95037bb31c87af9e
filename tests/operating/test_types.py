"""Message types for bodies: from a descriptor set, from reflection, from a module (6.4)."""

import argparse
from collections.abc import Iterator
from concurrent import futures
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_reflection.v1alpha import reflection, reflection_pb2

from grpc_idempotency._command.failures import Failed
from grpc_idempotency._command.types import Types, add_arguments, as_json, types_of
from shop.orders.v1 import orders_pb2

METHOD = "/shop.orders.v1.OrderService/CreateOrder"
ORDER = orders_pb2.Order(id="order-1")


@pytest.fixture
def descriptor_set(tmp_path: Path) -> str:
    """What ``protoc --include_imports --descriptor_set_out`` writes."""
    protos = FileDescriptorSet()
    done = set()

    def add(file: Any) -> None:
        for needed in file.dependencies:
            add(needed)
        if file.name not in done:
            done.add(file.name)
            file.CopyToProto(protos.file.add())

    add(orders_pb2.DESCRIPTOR)
    path = tmp_path / "orders.binpb"
    path.write_bytes(protos.SerializeToString())
    return str(path)


@pytest.fixture
def reflecting() -> Iterator[str]:
    """The address of a server with reflection."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    reflection.enable_server_reflection(["shop.orders.v1.OrderService"], server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture(params=["--descriptor-set", "--reflection", "--module"])
def source(request: pytest.FixtureRequest) -> list[str]:
    """The options for each source of types."""
    option: str = request.param
    if option == "--module":
        return [option, "shop.orders.v1.orders_pb2"]
    return [option, request.getfixturevalue("reflecting" if option == "--reflection" else "descriptor_set")]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def types(stack: ExitStack, *options: str) -> Types:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    found = stack.enter_context(types_of(parser.parse_args(options)))
    assert found is not None
    return found


def test_there_and_back(source: list[str], stack: ExitStack) -> None:
    """JSON becomes the method's response, and the response JSON with the names of its proto (6.4)."""
    known = types(stack, *source)
    data = known.encoded(METHOD, '{"id": "order-1"}')
    assert data == ORDER.SerializeToString()
    assert known.decoded(METHOD, data) == {"id": "order-1"}
    response = known.response(METHOD.replace("CreateOrder", "ListOrders"))
    assert as_json(response(next_page_token="n"), known.pool) == {"next_page_token": "n"}


@pytest.mark.parametrize("method", [METHOD + "s", "/no.Service/Method", "none", ""])
def test_an_unknown_method(source: list[str], stack: ExitStack, method: str) -> None:
    """A method that the source does not know is told."""
    with pytest.raises(Failed, match="does not know the method"):
        types(stack, *source).response(method)


@pytest.mark.parametrize("text", ["", "[", '{"idea": 1}', '{"id": 7}'])
def test_json_that_is_no_such_message(descriptor_set: str, stack: ExitStack, text: str) -> None:
    """JSON that is not the method's response is told, and so are bytes that are none."""
    known = types(stack, "--descriptor-set", descriptor_set)
    with pytest.raises(Failed, match=r"no shop.orders.v1.Order in JSON"):
        known.encoded(METHOD, text)
    with pytest.raises(Failed, match=r"not a shop.orders.v1.Order"):
        known.decoded(METHOD, b"\xff")


def test_what_can_not_be_read(tmp_path: Path, stack: ExitStack) -> None:
    """A file, a module or a server that has no types is told in one line."""
    (tmp_path / "none").write_bytes(b"\xff\xff")
    alone = FileDescriptorSet()
    orders_pb2.DESCRIPTOR.CopyToProto(alone.file.add())
    (tmp_path / "alone").write_bytes(alone.SerializeToString())
    for file in ("none", "alone"):
        with pytest.raises(Failed, match="not a complete descriptor set"):
            types(stack, "--descriptor-set", str(tmp_path / file))
    with pytest.raises(OSError, match="missing"):
        types(stack, "--descriptor-set", str(tmp_path / "missing"))
    with pytest.raises(Failed, match="can't be imported: ModuleNotFoundError"):
        types(stack, "--module", "no_such_module")


def test_the_stable_reflection(stack: ExitStack) -> None:
    """A server may have version 1 of the service alone, as newer ones do."""
    asked = reflection.ReflectionServicer(["shop.orders.v1.OrderService"]).ServerReflectionInfo
    handler = grpc.stream_stream_rpc_method_handler(
        asked,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    named = grpc.method_handlers_generic_handler(
        "grpc.reflection.v1.ServerReflection", {"ServerReflectionInfo": handler}
    )
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[named])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with ExitStack() as inner:
        assert types(inner, "--reflection", address).decoded(METHOD, ORDER.SerializeToString()) == {"id": "order-1"}
    server.stop(None).wait()


def test_a_server_without_reflection(stack: ExitStack) -> None:
    """A server that does not answer to reflection, or is not there, is told."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    for status in ("UNIMPLEMENTED", "UNAVAILABLE"):
        with pytest.raises(Failed, match=f"does not answer to reflection: {status}"), ExitStack() as inner:
            types(inner, "--reflection", address).response(METHOD)
        server.stop(None).wait()
