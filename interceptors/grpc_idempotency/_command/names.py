"""Which operation a command is about: a name, a prefix of it, or principal, method and key."""

import argparse
import os
import string
from pathlib import Path

from grpc_idempotency._checks import SHORTEST_SECRET
from grpc_idempotency._command.failures import Failed, Misused
from grpc_idempotency.errors import OperationNotFound
from grpc_idempotency.operating import name_of, operation
from grpc_idempotency.operator_store import OperatorStore
from grpc_idempotency.principals import SHARED, mtls_principal, token_principal
from grpc_idempotency.records import Record

SECRET = "GRPC_IDEMPOTENCY_SECRET"  # noqa: S105  # the name of a variable
"""The environment variable with the interceptor's secret."""


_WHOLE = 32
"""Digits of a whole name."""


class Absent(Failed):
    """There is no record of a name.

    Args:
        name: The name.
        message: The error's text.
    """

    def __init__(self, name: bytes, message: str) -> None:
        super().__init__(message)
        self.name = name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the ways to name an operation."""
    parser.add_argument(
        "operation", metavar="OPERATION", nargs="?", help="its name in hex, or a unique prefix of it; or give --key"
    )
    group = parser.add_argument_group("instead of OPERATION, what its client sent")
    group.add_argument("--key", metavar="KEY", help="the idempotency key; it is never printed")
    group.add_argument("--method", metavar="NAME", help="the full method name, /package.Service/Method")
    caller = group.add_mutually_exclusive_group()
    caller.add_argument(
        "--principal",
        metavar="NAME",
        help="what the server's principal function returned (default: that of all callers without an identity)",
    )
    caller.add_argument("--principal-hex", metavar="HEX", type=_hex, help="the same, as bytes")
    caller.add_argument(
        "--subject", metavar="SUB", help="the subject of the caller's token, if the server uses token_subject"
    )
    caller.add_argument(
        "--identity",
        metavar="PROPERTY=VALUE",
        action="append",
        help="a verified mTLS identity, such as x509_subject_alternative_name=spiffe://shop/web; once for each",
    )
    group.add_argument("--issuer", metavar="ISS", default="", help="the issuer of the token, with --subject")
    group.add_argument(
        "--secret-file",
        metavar="FILE",
        help=f"the interceptor's secret, if it has one; a line end at its end is ignored; or set {SECRET}",
    )


def settle(given: argparse.Namespace) -> None:
    """Reads the positional arguments: without a key, one word that is no URL is the operation.

    Raises:
        Misused: They name no operation, or two.
    """
    if given.key is None and given.operation is None and given.store is not None and ":" not in given.store:
        given.store, given.operation = None, given.store
    if (given.key is None) == (given.operation is None):
        raise Misused("name the operation by its name, or by --key and --method")
    if (given.key is None) != (given.method is None):
        raise Misused("--key and --method belong together")


def found(store: OperatorStore, given: argparse.Namespace) -> Record:
    """Reads the operation.

    Raises:
        Absent: There is no record of this name or key.
        OperationNotFound: No name begins so, or several do.
    """
    if given.key is None:
        return _by_name(store, given.operation)
    secrets = _secrets(given)
    try:
        names = [name_of(_principal(given), given.method, given.key, secret) for secret in secrets]
    except ValueError as exc:
        raise Misused(str(exc)) from exc
    for name in names:
        record = store.get(name)
        if record is not None:
            return record
    hint = f"; if the interceptor has a secret, give --secret-file or set {SECRET}"
    raise Absent(
        names[0],
        f"there is no operation of {given.method} with this key of this principal, or it has expired"
        f"{hint if secrets == [None] else ''}",
    )


def _by_name(store: OperatorStore, name: str) -> Record:
    try:
        return operation(store, name)
    except OperationNotFound as exc:
        if len(name) == _WHOLE and set(name) <= set(string.hexdigits):
            raise Absent(bytes.fromhex(name), str(exc)) from exc
        raise


def _secrets(given: argparse.Namespace) -> list[bytes | None]:
    """Returns the secrets to try. A file's last line end may be part of the secret, or an editor's."""
    if given.secret_file is not None:
        data = Path(given.secret_file).read_bytes()
        secrets = dict.fromkeys((data.removesuffix(b"\n").removesuffix(b"\r"), data))
        return [secret for secret in secrets if len(secret) >= SHORTEST_SECRET] or [data]
    value = os.environ.get(SECRET)
    return [os.fsencode(value) if value else None]


def _principal(given: argparse.Namespace) -> bytes:
    if given.principal is not None:
        return os.fsencode(given.principal)
    if given.principal_hex is not None:
        return bytes(given.principal_hex)
    if given.subject is not None:
        return token_principal(given.subject, issuer=given.issuer)
    if given.identity is not None:
        properties, values = zip(*(one.partition("=")[::2] for one in given.identity), strict=True)
        if len(set(properties)) > 1:
            raise Misused("the identities of a peer have one property")
        return mtls_principal(properties[0], [value.encode() for value in values])
    return SHARED


def _hex(value: str) -> bytes:
    try:
        return bytes.fromhex(value)
    except ValueError:
        raise argparse.ArgumentTypeError("must be pairs of hexadecimal digits") from None
