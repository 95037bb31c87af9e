"""Methods with options, from a proto's text, and servers of both kinds that have them."""

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool

from grpc_idempotency.include import include_dir

from ..harness.handlers import Method
from ..harness.replies import Reply
from ..harness.servers import Servers, Service

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


class Server:
    """A server of one kind with one method, ``Do``; counts its runs."""

    def __init__(self) -> None:
        self.runs = 0
        self.service: Service

    async def one(self, _request: Any, _context: Any) -> bytes:
        self.runs += 1
        return b"%d" % self.runs

    async def many(self, request: Any, context: Any) -> AsyncIterator[bytes]:
        yield await self.one(request, context)

    async def call(self, *metadata: tuple[str, str], raw: bytes = b"") -> Reply:
        return await self.service.blocking("Do", raw, metadata=metadata)


@asynccontextmanager
async def served(
    kind: str, service: str, *, requests: bool = False, replies: bool = False, **options: Any
) -> AsyncIterator[Server]:
    """Serves ``Do`` of a declared service with a store in memory; ``options`` are those of the harness's servers."""
    server = Server()
    run = server.many if replies else server.one
    method = Method(run=run, takes_stream=requests, gives_stream=replies, request=None, reply=None)
    async with AsyncExitStack() as stack:
        serve = Servers(kind, Path(), stack)
        server.service = await serve({"Do": method}, service=service.strip("/"), store=serve.store("memory"), **options)
        yield server
