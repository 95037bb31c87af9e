"""The protos that the library ships: ``import "grpc_idempotency/v1/policy.proto";``."""
