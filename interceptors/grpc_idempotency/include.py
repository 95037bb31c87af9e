"""The folder of the library's protos, for a compiler's ``-I``. ``python -m grpc_idempotency.include`` prints it."""

from pathlib import Path

_POLICY = Path("grpc_idempotency/v1/policy.proto")


def include_dir() -> Path:
    """Returns the folder in which ``import "grpc_idempotency/v1/policy.proto";`` is found."""
    installed = Path(__file__).resolve().parents[1]
    # In an editable install the protos are in protos/, beside the library's source root.
    return installed if (installed / _POLICY).is_file() else installed.parent / "protos"


if __name__ == "__main__":
    print(include_dir())
