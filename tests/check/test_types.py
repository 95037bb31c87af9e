"""The types of a method, from the server's reflection or a descriptor set."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, descriptor_pb2

from grpc_idempotency.check import Settings, Unreachable, WrongUsage, check
from grpc_idempotency.check._templates import Template
from grpc_idempotency.check._types import Types

from .conftest import run_check

_Field = descriptor_pb2.FieldDescriptorProto


def _with_an_any() -> bytes:
    """Returns the types of a method whose request has an Any, as protoc writes them."""
    file = descriptor_pb2.FileDescriptorProto(name="letters.proto", package="letters", syntax="proto3")
    file.dependency.append("google/protobuf/any.proto")
    for name, field in (
        ("Letter", {"type": _Field.TYPE_MESSAGE, "type_name": ".google.protobuf.Any"}),
        ("Page", {"type": _Field.TYPE_STRING}),
    ):
        file.message_type.add(name=name).field.add(name="content", number=1, label=_Field.LABEL_OPTIONAL, **field)
    file.service.add(name="Post").method.add(name="Send", input_type=".letters.Letter", output_type=".letters.Page")
    return descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString()


def test_an_any_may_have_a_type_of_the_server() -> None:
    """The type of a value in an Any is looked for among the server's, and not among those of this process."""
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        method = Types(channel, _with_an_any(), (), 1.0).method("letters.Post/Send")
    text = '{"content": {"@type": "type.googleapis.com/letters.Page", "content": "{{marker}}"}}'
    (message,) = Template(method, (text,), "--request").messages("key", "m")
    assert (
        message.content.SerializeToString()
        == any_pb2.Any(type_url="type.googleapis.com/letters.Page", value=b"\x0a\x01m").SerializeToString()
    )


class _Unavailable(grpc.GenericRpcHandler):
    """Answers every call as a proxy does whose server is not there, or at first is not there."""

    def __init__(self, calls: int | None) -> None:
        self._left = calls

    def service(self, _details: Any) -> Any:
        if self._left == 0:
            return None  # which is UNIMPLEMENTED
        if self._left:
            self._left -= 1

        def refuse(_requests: Any, context: Any) -> Any:
            context.abort(grpc.StatusCode.UNAVAILABLE, "no healthy\x1b[31m upstream")

        return grpc.stream_stream_rpc_method_handler(refuse)


@contextmanager
def _proxy(calls: int | None) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2), handlers=[_Unavailable(calls)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


def test_a_proxy_without_its_server_is_unreachable() -> None:
    """A server behind a proxy that answers for it is not reached, which is no verdict on it."""
    with _proxy(None) as address:
        with pytest.raises(Unreachable, match="no healthy"):
            check(Settings(address=address, method="letters.Post/Send", wait=0.5))
        ended = run_check(address, "--method", "letters.Post/Send", "--wait", "0.5")
    assert ended.code == 4
    assert "no healthy\\x1b[31m upstream" in ended.err  # what a server sends does not reach the terminal


def test_a_server_behind_a_proxy_is_waited_for() -> None:
    """The time to wait is also for a server whose proxy answers first."""
    with _proxy(2) as address, pytest.raises(WrongUsage, match="no reflection"):
        check(Settings(address=address, method="letters.Post/Send"))
