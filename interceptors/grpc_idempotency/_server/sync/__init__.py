"""The wing for ``grpc.server``."""
