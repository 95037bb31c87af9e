"""Names with a meaning on both sides: the field of AIP-155, and gRPC's own services."""

REQUEST_ID = "request_id"
"""The field of AIP-155."""

_GRPCS_OWN = ("/grpc.health.", "/grpc.reflection.", "/grpc.channelz.")


def is_grpcs_own(name: str) -> bool:
    """Returns whether a method belongs to gRPC's own services, whose answers must be current (2.5)."""
    return name.startswith(_GRPCS_OWN)
