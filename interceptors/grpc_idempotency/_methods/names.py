"""Names that mean something to both sides: the field of AIP-155, and the services that are gRPC's own."""

REQUEST_ID = "request_id"
"""The field of AIP-155."""

_GRPCS_OWN = ("/grpc.health.", "/grpc.reflection.", "/grpc.channelz.")


def is_grpcs_own(name: str) -> bool:
    """Whether a method is one of gRPC's own services, whose answers must be those of the moment (2.5)."""
    return name.startswith(_GRPCS_OWN)
