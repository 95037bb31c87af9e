"""``grpc-idempotency``, or ``python -m grpc_idempotency``: shows an operator the operations of a store (6.4)."""

import sys

from grpc_idempotency._command.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
