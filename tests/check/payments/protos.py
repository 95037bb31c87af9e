"""The service's types, as generated code would make them known."""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "check.payments.v1.Payments"
_PACKAGE = "check.payments.v1"
_Field = descriptor_pb2.FieldDescriptorProto
_METHODS = {
    # Name: request, response, whether it takes a stream, whether it gives one.
    "Pay": ("PayRequest", "Payment", False, False),
    "Refund": ("PayRequest", "Payment", False, False),
    "PayAll": ("PayRequest", "Payment", True, False),
    "PayInParts": ("PayRequest", "Payment", False, True),
    "Haggle": ("PayRequest", "Payment", True, True),
    "List": ("ListRequest", "ListResponse", False, False),
}


def _declare() -> None:
    file = descriptor_pb2.FileDescriptorProto(name="check/payments.proto", package=_PACKAGE, syntax="proto3")
    request = file.message_type.add(name="PayRequest")
    _text(request, "payer", "request_id", "category")
    entry = request.nested_type.add(name="LabelsEntry", options=descriptor_pb2.MessageOptions(map_entry=True))
    _text(entry, "key", "value")
    _list(request, "labels", f".{_PACKAGE}.PayRequest.LabelsEntry")
    _list(request, "notes")
    payment = file.message_type.add(name="Payment")
    _text(payment, "id", "payer")
    _list(payment, "notes")
    listing = file.message_type.add(name="ListRequest")
    _number(listing, "page_size")
    _text(listing, "page_token", "payer")
    listed = file.message_type.add(name="ListResponse")
    _list(listed, "payments", f".{_PACKAGE}.Payment")
    _text(listed, "next_page_token")
    _number(listed, "total")
    service = file.service.add(name="Payments")
    for name, (taken, given, takes_stream, gives_stream) in _METHODS.items():
        service.method.add(
            name=name,
            input_type=f".{_PACKAGE}.{taken}",
            output_type=f".{_PACKAGE}.{given}",
            client_streaming=takes_stream,
            server_streaming=gives_stream,
        )
    descriptor_pool.Default().Add(file)


def _text(message: Any, *names: str) -> None:
    for name in names:
        message.field.add(
            name=name, number=len(message.field) + 1, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL
        )


def _number(message: Any, name: str) -> None:
    message.field.add(name=name, number=len(message.field) + 1, type=_Field.TYPE_INT32, label=_Field.LABEL_OPTIONAL)


def _list(message: Any, name: str, kind: str = "") -> None:
    number = len(message.field) + 1
    if kind:
        message.field.add(
            name=name, number=number, type=_Field.TYPE_MESSAGE, type_name=kind, label=_Field.LABEL_REPEATED
        )
    else:
        message.field.add(name=name, number=number, type=_Field.TYPE_STRING, label=_Field.LABEL_REPEATED)


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(f"{_PACKAGE}.{name}"))


_declare()
PayRequest, Payment, ListRequest, ListResponse = map(_class, ("PayRequest", "Payment", "ListRequest", "ListResponse"))


def descriptors() -> bytes:
    """Returns a descriptor set, as ``protoc --descriptor_set_out`` makes."""
    file = descriptor_pb2.FileDescriptorProto()
    descriptor_pool.Default().FindFileByName("check/payments.proto").CopyToProto(file)
    return descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString()
