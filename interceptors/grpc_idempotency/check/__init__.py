"""Tells of any gRPC server, in any language, whether a method is safe to retry: ``grpc-idempotency check``.

It calls the server as a client does, disturbs the calls, and counts what took effect. It needs the extra ``check``.
"""

from grpc_idempotency.check._results import CannotCheck, Report, Result, Unreachable, Verdict, WrongUsage
from grpc_idempotency.check._runner import check
from grpc_idempotency.check._settings import Counting, Settings, Tls

__all__ = [
    "CannotCheck",
    "Counting",
    "Report",
    "Result",
    "Settings",
    "Tls",
    "Unreachable",
    "Verdict",
    "WrongUsage",
    "check",
]

# As in grpc_idempotency: users see the module that they import from.
for _public in (CannotCheck, Counting, Report, Result, Settings, Tls, Unreachable, Verdict, WrongUsage, check):
    _public.__module__ = __name__
del _public
