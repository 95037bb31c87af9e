"""The failure that an operation is being undone for, as bytes."""

import base64
import json

from grpc_idempotency.records import Code, Outcome, Trailers


def encode_failure(outcome: Outcome, tries: int) -> bytes:
    """An outcome without a message, and how many runs had failed by then."""
    trailers = [
        [name, value] if isinstance(value, str) else [name, base64.b64encode(value).decode(), "b64"]
        for name, value in outcome.trailers
    ]
    return json.dumps([int(outcome.status), outcome.details, trailers, tries, outcome.retained]).encode()


def decode_failure(data: bytes) -> tuple[Outcome, int]:
    """The inverse of :func:`encode_failure`."""
    status, details, kept, tries, retained = json.loads(data)
    trailers: Trailers = tuple((entry[0], base64.b64decode(entry[1]) if len(entry) > 2 else entry[1]) for entry in kept)
    return Outcome(status=Code(status), details=details, trailers=trailers, retained=retained), tries
