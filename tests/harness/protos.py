"""Services that protobuf knows, as generated code would make them known."""

from collections.abc import Mapping, Sequence

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message


def declare(package: str, fields: Sequence[str], methods: Mapping[str, bool]) -> type[Message]:
    """Declares a message and a service of it, and returns the message's class.

    Args:
        package: A package that nothing else has; the message is its ``Request``, the service its ``Service``.
        fields: Names of the message's fields, all of them text.
        methods: By name, whether a method answers with a stream. Each takes and gives the message.
    """
    name, text = f".{package}.Request", descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    message, service = file.message_type.add(name="Request"), file.service.add(name="Service")
    for number, field in enumerate(fields, 1):
        message.field.add(name=field, number=number, type=text.TYPE_STRING, label=text.LABEL_OPTIONAL)
    for method, streams in methods.items():
        service.method.add(name=method, input_type=name, output_type=name, server_streaming=streams)
    pool = descriptor_pool.Default()
    pool.Add(file)
    kind: type[Message] = message_factory.GetMessageClass(pool.FindMessageTypeByName(name[1:]))
    return kind
