"""The wing for ``grpc.aio``."""
