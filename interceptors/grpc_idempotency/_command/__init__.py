"""The command ``grpc-idempotency``: what an operator looks at and changes in a store (6.4).

Each command is a module with its name. :mod:`~grpc_idempotency._command.main` has the table of them.
"""
