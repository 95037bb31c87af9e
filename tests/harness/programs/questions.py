"""Everything that a handler can ask its context."""

from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue


class Status(grpc.Status):
    code = grpc.StatusCode.NOT_FOUND
    details = "a second abort"
    trailing_metadata = ()


def questions(kind: type) -> list[tuple[str, tuple[Any, ...]]]:
    """Every method of a context, with arguments."""
    arguments: dict[str, tuple[Any, ...]] = {
        "abort": (grpc.StatusCode.OUT_OF_RANGE, "asked everything", (("x-asked", "1"),)),
        "abort_with_status": (Status(),),
        "add_callback": (lambda: None,),
        "add_done_callback": (lambda _: None,),
        "send_initial_metadata": ((("x-ahead", "1"),),),
        "set_code": (grpc.StatusCode.NOT_FOUND,),
        "set_compression": (grpc.Compression.Gzip,),
        "set_details": ("some",),
        "set_trailing_metadata": ((("x-trailing", "1"),),),
        "write": (StringValue(),),
    }
    names = [name for name in dir(kind) if not name.startswith("_")]
    names.sort(key=lambda name: name.startswith("abort"))
    return [(name, arguments.get(name, ())) for name in names]
