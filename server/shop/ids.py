"""Ids and times of resources."""

import time
import uuid

from google.protobuf.timestamp_pb2 import Timestamp


def new_id(kind: str) -> str:
    """Returns a new unique id: letters, digits and hyphens (AIP-122)."""
    return f"{kind}-{uuid.uuid4().hex}"


def now_us() -> int:
    """Returns the current time as the tables keep it: microseconds since 1970."""
    return time.time_ns() // 1000


def timestamp(us: int) -> Timestamp:
    """Converts a time of a row to the type of messages."""
    made = Timestamp()
    made.FromMicroseconds(us)
    return made
