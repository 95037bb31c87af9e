"""Field masks (AIP-134)."""

from collections.abc import Sequence

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message


def named(mask: FieldMask, resource: Message, allowed: Sequence[str]) -> frozenset[str]:
    """Returns the fields that a checked mask names: for an empty mask those set in ``resource``, for ``*`` all."""
    if not mask.paths:
        return frozenset(field for field in allowed if getattr(resource, field))
    if list(mask.paths) == ["*"]:
        return frozenset(allowed)
    return frozenset(mask.paths)
