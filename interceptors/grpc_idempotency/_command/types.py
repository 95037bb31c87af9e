"""Message types: from a descriptor set, from a server's reflection, or from a Python module with generated code."""

import argparse
import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import DecodeError, Message

from grpc_idempotency._command.failures import Failed, Misused

_PATIENCE = 10
"""Seconds in which a server must answer."""


class Types:
    """The messages of a set of protos.

    Args:
        pool: The protos' descriptors.
        source: Where they are from, for errors.
    """

    def __init__(self, pool: descriptor_pool.DescriptorPool, source: str) -> None:
        self.pool = pool
        self._source = source

    def response(self, method: str) -> type[Message]:
        """Returns the response type of a method, given as ``/package.Service/Method``.

        Raises:
            Failed: The method is unknown.
        """
        service, _, name = method.removeprefix("/").rpartition("/")
        try:
            found = self.pool.FindServiceByName(service).methods_by_name[name].output_type
        except KeyError:
            raise Failed(f"{self._source} does not know the method {method}") from None
        kind: type[Message] = message_factory.GetMessageClass(found)
        return kind

    def decoded(self, method: str, data: bytes) -> Any:
        """Returns a serialized response of a method as a JSON value."""
        message = self.response(method)()
        try:
            message.ParseFromString(data)
        except DecodeError:
            raise Failed(f"the stored response is not a {message.DESCRIPTOR.full_name}") from None
        return as_json(message, self.pool)

    def encoded(self, method: str, text: str) -> bytes:
        """Returns a response of a method, given as JSON, serialized."""
        message = self.response(method)()
        try:
            json_format.Parse(text, message, descriptor_pool=self.pool)
        except (json_format.ParseError, ValueError) as exc:
            raise Failed(f"this is no {message.DESCRIPTOR.full_name} in JSON: {exc}") from exc
        return message.SerializeToString(deterministic=True)


def as_json(message: Message, pool: descriptor_pool.DescriptorPool) -> Any:
    """Returns a message as a JSON value, with the field names of its proto.

    Raises:
        Failed: It contains an Any of a type that the pool does not have.
    """
    try:
        return json_format.MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=pool)
    except (TypeError, ValueError) as exc:
        raise Failed(f"a {message.DESCRIPTOR.full_name} can't be written as JSON: {exc}") from exc


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say where message types come from."""
    group = parser.add_argument_group("message types").add_mutually_exclusive_group()
    group.add_argument(
        "--descriptor-set", metavar="FILE", help="from the output of protoc --include_imports --descriptor_set_out=FILE"
    )
    group.add_argument(
        "--reflection",
        metavar="HOST:PORT",
        help="from the reflection of a server; https://HOST:PORT: over TLS (needs grpc-idempotency[cli])",
    )
    group.add_argument(
        "--module",
        metavar="NAME",
        help="from a Python module with generated code, such as shop.orders.v1.orders_pb2, on PYTHONPATH",
    )


@contextmanager
def types_of(given: argparse.Namespace) -> Iterator[Types | None]:
    """Yields the types that the command line names, or ``None`` if it names none.

    Raises:
        Failed: They can't be read.
    """
    if given.descriptor_set is not None:
        yield Types(_from_file(given.descriptor_set), given.descriptor_set)
    elif given.module is not None:
        yield Types(_from_module(given.module), given.module)
    elif given.reflection is not None:
        with _reflected(given.reflection) as pool:
            yield Types(pool, given.reflection)
    else:
        yield None


def _from_file(file: str) -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    try:
        protos = FileDescriptorSet.FromString(Path(file).read_bytes())
        for proto in protos.file:
            pool.Add(proto)
    except (DecodeError, TypeError) as exc:
        raise Failed(
            f"{file} is not a complete descriptor set; protoc --include_imports makes one: {_first_line(exc)}"
        ) from exc
    return pool


def _from_module(name: str) -> descriptor_pool.DescriptorPool:
    try:
        importlib.import_module(name)
    except Exception as exc:
        raise Failed(f"the module {name} can't be imported: {type(exc).__name__}: {_first_line(exc)}") from exc
    return descriptor_pool.Default()


@contextmanager
def _reflected(server: str) -> Iterator[descriptor_pool.DescriptorPool]:
    try:
        from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
    except ImportError:
        raise Misused("--reflection needs more: pip install 'grpc-idempotency[cli]'") from None
    with _channel(server) as channel:
        try:
            found = ProtoReflectionDescriptorDatabase(grpc.intercept_channel(channel, _Stable()))
            try:
                found.get_services()
            except grpc.RpcError as exc:
                if exc.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    raise
                found = ProtoReflectionDescriptorDatabase(channel)
            yield descriptor_pool.DescriptorPool(found)
        except grpc.RpcError as exc:
            raise Failed(f"{server} does not answer to reflection: {exc.code().name}: {exc.details()}") from exc


class _Details(NamedTuple):
    method: str
    timeout: float | None
    metadata: Any
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _Stable(grpc.StreamStreamClientInterceptor):
    """Asks the stable reflection service where grpcio-reflection asks v1alpha. Their messages are the same."""

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        """Changes the method of a call."""
        method = details.method.replace("v1alpha", "v1")
        others = [getattr(details, name, None) for name in _Details._fields[1:]]
        return continuation(_Details(method, *others), requests)


def _channel(server: str) -> grpc.Channel:
    address = server.removeprefix("https://")
    every_call = {"methodConfig": [{"name": [{}], "timeout": f"{_PATIENCE}s"}]}
    options = [("grpc.service_config", json.dumps(every_call))]
    if address == server:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(), options)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")
