"""Ids and times of what the services create."""

import time
import uuid

from google.protobuf.timestamp_pb2 import Timestamp


def new_id(kind: str) -> str:
    """A name that nothing else has or gets: letters, digits and hyphens (AIP-122)."""
    return f"{kind}-{uuid.uuid4().hex}"


def now_us() -> int:
    """The time, as the tables keep it: microseconds since 1970."""
    return time.time_ns() // 1000


def timestamp(us: int) -> Timestamp:
    """A time of a row, as messages have it."""
    made = Timestamp()
    made.FromMicroseconds(us)
    return made
