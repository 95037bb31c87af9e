"""Maps between gRPC's status codes and the library's own, which the rules and the stores use without grpc."""

from collections.abc import Mapping
from typing import Any

import grpc

from grpc_idempotency.records import Code

GRPC_CODES: Mapping[Code, grpc.StatusCode] = {Code(code.value[0]): code for code in grpc.StatusCode}
CODES: Mapping[Any, Code] = {code: Code(code.value[0]) for code in grpc.StatusCode}
