"""The rules of an operation's life: no I/O, no grpc, no protobuf, no clock."""
