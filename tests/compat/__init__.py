"""The library with other versions of grpcio and protobuf: ``make compat``."""
