"""The form of a request in which equal messages are equal bytes (3.2)."""

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.any_pb2 import Any
from google.protobuf.api_pb2 import Method
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.type_pb2 import Option
from google.rpc.status_pb2 import Status

from grpc_idempotency._wire.canonical import canonical, may_hold_any


def entry(name: str) -> bytes:
    """One field of a Struct on the wire; messages that are concatenated are merged."""
    one = Struct()
    one[name] = name
    return one.SerializeToString()


FORTH, BACK = entry("a") + entry("b"), entry("b") + entry("a")
URL = "type.googleapis.com/"


def packed(value: bytes, kind: str = "google.protobuf.Struct", prefix: str = URL) -> Any:
    return Any(type_url=prefix + kind, value=value)


def nested(value: bytes, depth: int) -> Any:
    """A Struct in so many Anys."""
    message = packed(value)
    for _ in range(depth - 1):
        message = packed(message.SerializeToString(), "google.protobuf.Any")
    return message


def form(message: Message) -> bytes:
    return canonical(message.SerializePartialToString(), message, ())


@pytest.mark.parametrize("depth", [1, 2, 8])
def test_an_any_counts_as_what_is_in_it(depth: int) -> None:
    """A map in an Any may come in another order, also where Anys are in Anys; other contents are another request."""
    forth, back = nested(FORTH, depth), nested(BACK, depth)
    assert forth != back
    assert form(forth) == form(back) != form(nested(entry("a"), depth))


def test_wherever_the_any_is() -> None:
    """In a list, in a message in a list, and in what is itself in an Any."""

    def option(value: bytes) -> Option:
        return Option(name="x", value=packed(value))

    def within(value: bytes) -> list[Message]:
        return [
            Status(code=1, details=[packed(b"", "google.protobuf.Empty"), packed(value)]),
            Method(name="m", options=[option(value)]),
            packed(Method(options=[option(value)]).SerializeToString(), "google.protobuf.Method"),
        ]

    for forth, back, other in zip(within(FORTH), within(BACK), within(entry("a")), strict=True):
        assert forth.SerializeToString() != back.SerializeToString()
        assert form(forth) == form(back) != form(other)


def test_in_a_map() -> None:
    """Anys as a map's values, beside maps of plain values; and a type that holds itself."""
    file = descriptor_pb2.FileDescriptorProto(name="anys.proto", package="anys", syntax="proto3")
    file.dependency.append("google/protobuf/any.proto")
    holder = file.message_type.add(name="Holder")
    for number, (name, kind) in enumerate({"anys": ".google.protobuf.Any", "texts": None}.items(), 1):
        inner = holder.nested_type.add(name=f"{name.title()}Entry")
        inner.options.map_entry = True
        inner.field.add(name="key", number=1, type=9, label=1)
        inner.field.add(name="value", number=2, type=11 if kind else 9, type_name=kind, label=1)
        holder.field.add(name=name, number=number, type=11, label=3, type_name=f".anys.Holder.{inner.name}")
    holder.field.add(name="self", number=3, type=11, label=1, type_name=".anys.Holder")
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    kind_of = message_factory.GetMessageClass(pool.FindMessageTypeByName("anys.Holder"))

    def holding(value: bytes) -> Message:
        leaf = kind_of(anys={"k": packed(value)}, texts={"k": "v"})
        return kind_of(self=kind_of(self=leaf), anys={"j": packed(value)})

    assert form(holding(FORTH)) == form(holding(BACK)) != form(holding(entry("a")))


@pytest.mark.parametrize(
    ("forth", "back"),
    [
        (packed(FORTH, "no.such.Type"), packed(BACK, "no.such.Type")),
        (packed(FORTH, ""), packed(BACK, "")),
        (packed(b"\xff" + FORTH), packed(b"\xff" + BACK)),
        (packed(FORTH), packed(FORTH, prefix="example.com/")),
        (nested(FORTH, 9), nested(BACK, 9)),
        (nested(FORTH, 60), nested(BACK, 60)),
    ],
    ids=["unknown", "nothing", "broken", "another url", "deep", "deeper"],
)
def test_what_can_not_be_told_counts_as_another(forth: Any, back: Any) -> None:
    """A part of unknown type, or nested too deep, keeps its bytes: the retry is refused, which is safe."""
    assert form(forth) != form(back)
    assert form(forth) == form(Any.FromString(forth.SerializeToString()))


def test_the_request_stays_as_it_came() -> None:
    """The handler gets the message with its Anys as they were sent."""
    message = Status(details=[packed(BACK)])
    form(message)
    assert message == Status(details=[packed(BACK)])


def test_only_types_that_can_hold_an_any_are_searched() -> None:
    """It is known for each type, by its descriptor."""
    held = {kind.DESCRIPTOR.name: may_hold_any(kind.DESCRIPTOR) for kind in (Status, Struct, Option, Any, Method)}
    assert held == {"Status": True, "Struct": False, "Option": True, "Any": True, "Method": True}
    assert may_hold_any(descriptor_pb2.MethodOptions.DESCRIPTOR)  # an extension of it may be anything


def test_a_required_field_that_is_missing() -> None:
    """An incomplete message of proto2 has a canonical form as well; to refuse it is the handler's business."""
    part = descriptor_pb2.UninterpretedOption.NamePart(name_part="x")
    whole = descriptor_pb2.UninterpretedOption(name=[part])
    assert form(descriptor_pb2.UninterpretedOption.FromString(whole.SerializePartialToString()))
