"""The method option, for generated code that imports it: what protoc would make of ``policy.proto``, for any protobuf.

protoc's own output asks, when it is imported, for a protobuf of the major version that made it or the next one. This
module makes the same names from the same descriptor, with whatever protobuf there is from 4.25 on. ``make protos``
writes that descriptor, ``policy.binpb``, and the types, ``policy_pb2.pyi``.
"""

import pkgutil

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,  # noqa: F401  # the file imports it, so it has to be in the pool first
)
from google.protobuf.internal import builder

_file = descriptor_pb2.FileDescriptorSet.FromString(pkgutil.get_data("grpc_idempotency.v1", "policy.binpb") or b"").file[0]
# Generated code has no JSON names in its descriptors. Without them a copy of this file that somebody else compiled is
# the same file to the pool, else another one under the same name, which it refuses.
for _field in [*_file.extension, *(field for message in _file.message_type for field in message.field)]:
    _field.ClearField("json_name")

_names = globals()
DESCRIPTOR = descriptor_pool.Default().AddSerializedFile(_file.SerializeToString())
builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, _names)
builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, __name__, _names)
