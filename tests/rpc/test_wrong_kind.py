"""The interceptor of one kind of server in a server of the other kind: a clear error at once, and never a hang."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import grpc
import grpc.aio
import pytest

import grpc_idempotency
from grpc_idempotency import MemoryStore, PolicyError, aio

from ..harness.handlers import SERVICE

KEY = (("idempotency-key", "k"),)
SHAPES = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def for_threads() -> Any:
    return grpc_idempotency.IdempotencyInterceptor(MemoryStore())


def for_asyncio() -> Any:
    return aio.IdempotencyInterceptor(aio.MemoryStore())


def thread_server(*interceptors: Any) -> grpc.Server:
    return grpc.server(ThreadPoolExecutor(1), interceptors=[*interceptors], options=[("grpc.so_reuseport", 0)])


@pytest.fixture
def address(caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    """A ``grpc.server`` with the interceptor of ``grpc.aio``, and a method of each shape that must not run."""
    server = thread_server(for_asyncio())

    def never(_incoming: Any, _context: grpc.ServicerContext) -> Any:
        raise AssertionError("the handler ran")

    handlers = {shape: getattr(grpc, f"{shape}_rpc_method_handler")(never) for shape in SHAPES}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with caplog.at_level(logging.ERROR, "grpc_idempotency"):
        yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize("metadata", [(), KEY], ids=["un-keyed", "keyed"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_call_says_so(
    address: str, shape: str, metadata: tuple[tuple[str, str], ...], caplog: pytest.LogCaptureFixture
) -> None:
    """``grpc.server`` takes any object, so the first call is the first chance: it and the log say what to do."""
    request: Any = iter([b""]) if shape.startswith("stream") else b""
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as raised:
        list(getattr(channel, shape)(f"/{SERVICE}/{shape}")(request, metadata=metadata, timeout=20))
    error: Any = raised.value
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "Give it grpc_idempotency.IdempotencyInterceptor" in error.details()
    assert ("idempotency-status", "refused") in list(error.trailing_metadata())
    assert "Give it grpc_idempotency.IdempotencyInterceptor" in caplog.text


def test_an_unknown_method_is_unknown_all_the_same(address: str) -> None:
    """A method that the server does not have is UNIMPLEMENTED, as ever."""
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as raised:
        cast("Any", channel.unary_unary(f"/{SERVICE}/Unknown"))(b"", timeout=20)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_server_of_grpc_aio_refuses_it() -> None:
    """``grpc.aio.server`` checks its interceptors itself, when it is made."""
    with pytest.raises(ValueError, match="Interceptor must be ServerInterceptor"):
        grpc.aio.server(interceptors=[for_threads()])


def aio_server() -> grpc.aio.Server:
    return grpc.aio.server()


@pytest.mark.parametrize(
    ("interceptor", "server", "says"),
    [
        (for_asyncio, thread_server, "For grpc.server use grpc_idempotency.IdempotencyInterceptor"),
        (for_threads, aio_server, "For grpc.aio.server use grpc_idempotency.aio.IdempotencyInterceptor"),
        (for_asyncio, object, "it serves grpc.aio.server alone"),
        (for_threads, object, "it serves grpc.server alone"),
    ],
)
async def test_attach_to_another_server(interceptor: Callable[[], Any], server: Callable[[], Any], says: str) -> None:
    """``attach`` refuses a server of the other kind, and what is no server, and names the interceptor to use (8)."""
    given = server()
    with pytest.raises(PolicyError, match=says):
        interceptor().attach(given)
    assert not {"start", "stop"} & set(vars(given) if hasattr(given, "__dict__") else ()), "it was changed all the same"
