"""The types of a method: from the server's reflection, or from a descriptor set."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import (
    any_pb2,
    api_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    type_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from grpc_idempotency.check._results import CannotCheck, Unreachable, WrongUsage
from grpc_idempotency.check._settings import Metadata

_WELL_KNOWN = {
    module.DESCRIPTOR.name: module.DESCRIPTOR
    for module in (
        any_pb2,
        api_pb2,
        descriptor_pb2,
        duration_pb2,
        empty_pb2,
        field_mask_pb2,
        struct_pb2,
        timestamp_pb2,
        type_pb2,
        wrappers_pb2,
    )
}
"""Protobuf's own files, which servers and descriptor sets may leave out."""
_REFLECTIONS = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
"""Both versions have the same messages on the wire."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method and the classes of its messages."""

    name: str
    """``/package.Service/Method``"""
    request: Any
    response: Any
    takes_stream: bool
    gives_stream: bool


class Types:
    """Finds methods."""

    def __init__(self, channel: grpc.Channel, descriptors: bytes, metadata: Metadata, timeout: float) -> None:
        """Makes the finder.

        Args:
            channel: To the server whose reflection is asked.
            descriptors: A serialized descriptor set that is used instead, unless it is empty.
            metadata: Metadata of reflection calls.
            timeout: Seconds until a reflection call is given up.

        Raises:
            WrongUsage: The descriptor set can't be read.
        """
        self._channel = channel
        self._metadata, self._timeout = tuple(metadata), timeout
        self._pool = descriptor_pool.DescriptorPool()
        self._known: set[str] = set()
        self._reflected = not descriptors
        if descriptors:
            try:
                files = FileDescriptorSet.FromString(descriptors).file
            except DecodeError as error:
                raise WrongUsage(
                    "--descriptor-set is no FileDescriptorSet, as protoc --descriptor_set_out makes."
                ) from error
            self._add({file.name: file for file in files})

    def method(self, name: str, beside: Method | None = None) -> Method:
        """Returns a method.

        Args:
            name: ``package.Service/Method``, with or without a leading slash.
            beside: A method of the same service, for a name without a service.

        Raises:
            WrongUsage: There is no such method, or its types can't be learned.
            CannotCheck: The server's reflection fails.
            Unreachable: The server's reflection is unavailable.
        """
        service, _, short = name.lstrip("/").rpartition("/")
        if not service and beside is not None:
            service = beside.name[1:].rpartition("/")[0]
        if not service or not short:
            raise WrongUsage(f"{name!r} is no method. Write package.Service/Method.")
        if self._reflected:
            self._add(self._files_with(service))
        try:
            found = self._pool.FindServiceByName(service).methods_by_name[short]
        except KeyError:
            raise WrongUsage(f"There is no method {service}/{short}.") from None
        return Method(
            name=f"/{service}/{short}",
            request=message_factory.GetMessageClass(found.input_type),
            response=message_factory.GetMessageClass(found.output_type),
            takes_stream=found.client_streaming,
            gives_stream=found.server_streaming,
        )

    def _add(self, files: Mapping[str, FileDescriptorProto]) -> None:
        """Adds files to the pool, each after those that it imports."""

        def add(name: str) -> None:
            if name in self._known:
                return
            self._known.add(name)
            file = files.get(name) or _well_known(name)
            if file is None:
                raise WrongUsage(f"The types of the method are incomplete: {name} is missing. Use --include_imports.")
            for imported in file.dependency:
                add(imported)
            self._pool.Add(file)

        for name in files:
            add(name)

    # Reflection

    def _files_with(self, service: str) -> dict[str, FileDescriptorProto]:
        """Returns the file of a service, and all that it imports."""
        found: dict[str, FileDescriptorProto] = {}
        for file in self._ask(ServerReflectionRequest(file_containing_symbol=service), f"the service {service}"):
            found[file.name] = file
        while missing := {one for file in found.values() for one in file.dependency} - found.keys() - self._known:
            for name in missing:
                known = _well_known(name)
                files = [known] if known else self._ask(ServerReflectionRequest(file_by_filename=name), name)
                found |= {file.name: file for file in files}
        return found

    def _ask(self, request: ServerReflectionRequest, what: str) -> list[FileDescriptorProto]:
        for reflection in _REFLECTIONS:
            call = self._channel.stream_stream(
                f"/{reflection}/ServerReflectionInfo",
                request_serializer=ServerReflectionRequest.SerializeToString,
                response_deserializer=ServerReflectionResponse.FromString,
            )
            try:
                (answer,) = _first(call(iter([request]), metadata=self._metadata, timeout=self._timeout))
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    continue
                kind = Unreachable if error.code() is grpc.StatusCode.UNAVAILABLE else CannotCheck
                raise kind(f"The server's reflection fails: {error.code().name}: {error.details()}") from error
            if answer.HasField("error_response"):
                raise WrongUsage(f"The server does not know {what}: {answer.error_response.error_message}")
            return [
                FileDescriptorProto.FromString(one) for one in answer.file_descriptor_response.file_descriptor_proto
            ]
        raise WrongUsage("The server has no reflection. Give its types with --descriptor-set FILE.")


def is_repeated(field: Any) -> bool:
    """Returns whether a field is a list or a map. Older versions of protobuf have only its label for that."""
    return bool(field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED)


def is_map(field: Any) -> bool:
    """Returns whether a field is a map."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _first(answers: Iterable[ServerReflectionResponse]) -> Sequence[ServerReflectionResponse]:
    return [*answers][:1]


def _well_known(name: str) -> FileDescriptorProto | None:
    """Returns a file of protobuf's own."""
    if name not in _WELL_KNOWN:
        return None
    file = FileDescriptorProto()
    _WELL_KNOWN[name].CopyToProto(file)
    return file
