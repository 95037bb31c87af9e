"""Methods with options, from a proto's text, and servers of both kinds that have them."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool

import grpc_idempotency
from grpc_idempotency import aio
from grpc_idempotency.include import include_dir

_numbers = itertools.count()

PROTO = """
syntax = "proto3";
package {package};
import "grpc_idempotency/v1/policy.proto";

service Service {{
{methods}
}}

message Request {{
  string name = 1;
  Header header = 2;
  repeated Header headers = 3;
  map<string, Header> by_name = 4;
}}

message Header {{
  int64 sent_at = 1;
}}
"""


def rpc(*options: str, name: str = "Do", takes: str = "Request", gives: str = "Request") -> str:
    """A method with these options; one that begins with a brace is our own."""
    ours = "option (grpc_idempotency.v1.policy) = "
    lines = [f"{ours}{option};" if option.startswith("{") else f"option {option};" for option in options]
    return f"  rpc {name}({takes}) returns ({gives}) {{ {' '.join(lines)} }}"


def declare(*methods: str) -> str:
    """Makes these methods known to protobuf, as generated code would; answers ``/package.Service/`` of them."""
    package = f"options.p{next(_numbers)}"
    with TemporaryDirectory() as folder:
        (Path(folder) / f"{package}.proto").write_text(PROTO.format(package=package, methods="\n".join(methods)))
        add(compiled(f"{package}.proto", Path(folder)))
    return f"/{package}.Service/"


def compiled(proto: str, folder: Path) -> descriptor_pb2.FileDescriptorProto:
    """A proto's descriptor as the compiler makes it."""
    protoc: Any = import_module("grpc_tools.protoc")
    standard = str(Path(protoc.__file__).parent / "_proto")
    out = folder / "set.binpb"
    arguments = [f"-I{folder}", f"-I{include_dir()}", f"-I{standard}", f"--descriptor_set_out={out}", proto]
    assert protoc.main(["protoc", *arguments]) == 0
    return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[0]


def add(file: descriptor_pb2.FileDescriptorProto) -> None:
    pool: Any = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())


class Handlers:
    """Echoing handlers of every kind; counts their runs."""

    def __init__(self) -> None:
        self.runs = 0

    def of(self, kind: str, requests: bool, replies: bool) -> Any:
        """A handler for one kind of server, of one cardinality."""
        make: Any = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[requests, replies]
        if kind == "threads":
            return make(self._generate if replies else self._answer)
        return make(self._agenerate if replies else self._aanswer)

    def _answer(self, _request: Any, _context: Any) -> bytes:
        self.runs += 1
        return b"%d" % self.runs

    def _generate(self, request: Any, context: Any) -> Iterator[bytes]:
        yield self._answer(request, context)

    async def _aanswer(self, request: Any, context: Any) -> bytes:
        return self._answer(request, context)

    async def _agenerate(self, request: Any, context: Any) -> AsyncIterator[bytes]:
        yield self._answer(request, context)


class Server:
    """A server of one kind with one method, ``Do``."""

    def __init__(self, target: str, service: str, handlers: Handlers, requests: bool, replies: bool) -> None:
        self.handlers = handlers
        self._target = target
        self._method = f"{service}Do"
        self._requests, self._replies = requests, replies

    async def call(self, *metadata: tuple[str, str], raw: bytes = b"") -> tuple[grpc.StatusCode, str, str | None]:
        """Status, status message and ``idempotency-status`` of one call."""
        return await asyncio.to_thread(self._call, metadata, raw)

    def _call(self, metadata: tuple[tuple[str, str], ...], raw: bytes) -> tuple[grpc.StatusCode, str, str | None]:
        # Not by a client of grpc.aio: writing while its call is refused, it often tells INTERNAL, whatever it was.
        with grpc.insecure_channel(self._target) as channel:
            make: Any = {
                (False, False): channel.unary_unary,
                (False, True): channel.unary_stream,
                (True, False): channel.stream_unary,
                (True, True): channel.stream_stream,
            }[self._requests, self._replies]
            call: Any
            method, request = make(self._method), iter([raw]) if self._requests else raw
            if self._replies:
                call = method(request, metadata=metadata, timeout=20)
                with suppress(grpc.RpcError):
                    list(call)
            else:
                call = method.future(request, metadata=metadata, timeout=20)
            trailers = dict(call.trailing_metadata() or ())
            return call.code(), call.details() or "", trailers.get("idempotency-status")


@asynccontextmanager
async def served(
    kind: str, service: str, *, requests: bool = False, replies: bool = False, attach: bool = True, **options: Any
) -> AsyncIterator[Server]:
    """Serves ``Do`` of a declared service; ``options`` are the interceptor's."""
    handlers = Handlers()
    generic = grpc.method_handlers_generic_handler(service.strip("/"), {"Do": handlers.of(kind, requests, replies)})
    server: Any
    interceptor: Any
    if kind == "threads":
        interceptor = grpc_idempotency.IdempotencyInterceptor(grpc_idempotency.MemoryStore(), **options)
        server = grpc.server(ThreadPoolExecutor(8), interceptors=[interceptor])
    else:
        interceptor = aio.IdempotencyInterceptor(aio.MemoryStore(), **options)
        server = grpc.aio.server(interceptors=[interceptor])
    if attach:
        interceptor.attach(server)
    server.add_generic_rpc_handlers((generic,))
    port = server.add_insecure_port("127.0.0.1:0")
    try:
        if kind == "threads":
            server.start()
        else:
            await server.start()
        yield Server(f"127.0.0.1:{port}", service, handlers, requests, replies)
    finally:
        if kind == "threads":
            server.stop(None).wait()
        else:
            await server.stop(None)
        if not attach:
            closed = interceptor.close()
            if closed is not None:
                await closed
