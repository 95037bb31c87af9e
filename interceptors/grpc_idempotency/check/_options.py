"""The options of ``grpc-idempotency check``."""

import argparse
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from grpc_idempotency.check._profile import as_arguments
from grpc_idempotency.check._results import WrongUsage
from grpc_idempotency.check._settings import REFUSALS, Counting, Settings, Tls

PROGRAM = "grpc-idempotency check"
_CODES = "exit codes: 0 safe to retry, 1 unsafe, 2 wrong usage, 3 the probes can't tell, 4 the server does not answer"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Tells of any gRPC server whether a method is safe to retry. It makes calls with real effects.",
        epilog=_CODES,
        allow_abbrev=False,
    )
    parser.add_argument("address", metavar="HOST:PORT", help="the server")
    add = parser.add_argument_group("what is called").add_argument
    add("--method", metavar="NAME", help="package.Service/Method")
    add(
        "--request",
        action="append",
        metavar="JSON",
        help="its request, with {{uuid}} and {{marker}}; @FILE: from a file; for a stream, once for each message",
    )
    add("--profile", metavar="FILE", help="a TOML file with any of these options, by their long names")
    add("--descriptor-set", metavar="FILE", help="a FileDescriptorSet, for a server without reflection")
    add(
        "--metadata",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="metadata of every call; $NAME as the value: from the environment",
    )
    add(
        "--as",
        dest="callers_as",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="metadata that names a caller; twice: two callers, whose keys must not mix",
    )
    add("--tls", action="store_true", help="call over TLS")
    add("--ca", metavar="FILE", help="the certificates to trust, in PEM")
    add("--cert", metavar="FILE", help="the client's certificate, in PEM")
    add("--cert-key", metavar="FILE", help="its private key, in PEM")

    add = parser.add_argument_group("how effects are counted").add_argument
    add("--count", metavar="METHOD", help="a method that reads; it is asked for all pages")
    add("--count-request", default="{}", metavar="JSON", help="its request ({})")
    add("--count-path", metavar="FIELD", help="a list whose elements count, or a number whose difference counts: a.b.c")

    add = parser.add_argument_group("the server's contract").add_argument
    add(
        "--header",
        default="idempotency-key",
        metavar="NAME",
        help="the metadata entry that has the key (idempotency-key)",
    )
    add("--key-field", default="", metavar="FIELD", help="the key is this field of the request, and no metadata")
    add(
        "--message-count-header",
        default="idempotency-message-count",
        metavar="NAME",
        help="announces the number of messages of a request stream (idempotency-message-count)",
    )
    add(
        "--refusal",
        action="append",
        default=[],
        metavar="KIND=CODE[,CODE]",
        help=f"the codes of a refusal: {', '.join(REFUSALS)}",
    )
    add("--ignore-trailer", action="append", default=[], metavar="NAME", help="a trailer that may differ in a replay")

    add = parser.add_argument_group("more requests").add_argument
    add("--other-body", action="append", default=[], metavar="JSON", help="another valid request")
    add("--failing-request", action="append", default=[], metavar="JSON", help="a request that is refused for good")
    add("--large-request", action="append", default=[], metavar="JSON", help="a request whose reply is large")
    add("--other-method", default="", metavar="NAME", help="another method with an effect")
    add("--other-request", action="append", metavar="JSON", help="its request")

    add = parser.add_argument_group("more probes").add_argument
    add("--restart", default="", metavar="COMMAND", help="stops the server and starts it again")
    add("--kill", default="", metavar="COMMAND", help="kills the server and starts it again")
    add("--replica", default="", metavar="HOST:PORT", help="another server on the same data")
    add("--ttl", type=_positive, default=0.0, metavar="SECONDS", help="how long outcomes are kept; it is waited for")

    add = parser.add_argument_group("how it runs").add_argument
    add("--only", action="append", default=[], metavar="PROBE", help="run this probe; may be repeated, and a glob")
    add(
        "--skip",
        action="append",
        default=[],
        metavar="PROBE",
        help="do not run this probe; may be repeated, and a glob",
    )
    add("--known-failing", metavar="FILE", help="probes that may fail, one on a line")
    add("--wait", type=_positive, default=5.0, metavar="SECONDS", help="how long to wait until the server answers (5)")
    add(
        "--timeout",
        type=_positive,
        default=60.0,
        metavar="SECONDS",
        help="how long a call and its retries may take (60)",
    )
    add("--trials", type=_count, default=40, metavar="N", help="how many calls a sweep cuts short (40)")
    add("--callers", type=_count, default=16, metavar="N", help="how many duplicates are sent at once (16)")
    add("--seed", type=int, metavar="N", help="the seed of random instants")
    add("--real-effects", action="store_true", help="allow it for a server that is not on this host")
    add("--json", action="store_true", help="print JSON")
    add("--junit", metavar="FILE", help="also write JUnit XML")
    add("--quiet", action="store_true", help="do not show the progress")
    return parser


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line. What it does not have comes from the profile.

    Args:
        arguments: The command line behind ``check``.

    Raises:
        WrongUsage: The profile can't be used.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.profile is not None:
        named = {one.partition("=")[0] for one in arguments}
        known = {name for name, _ in options()} - {"--profile"}
        given = parser.parse_args([*as_arguments(Path(given.profile), known, named), *arguments])
    if given.method is None:
        parser.error("--method is missing")
    return given


def options() -> list[tuple[str, str]]:
    """Returns all options with their placeholders, in the order of the help."""
    actions = [action for action in _parser()._actions if action.option_strings and action.dest != "help"]  # noqa: SLF001  # argparse has no other list of them
    return [(action.option_strings[0], str(action.metavar or "")) for action in actions]


def settings_of(given: argparse.Namespace) -> Settings:
    """Returns the settings that a command line gives.

    Args:
        given: The parsed command line.

    Raises:
        WrongUsage: An option can't be used.
    """
    if (given.count is None) != (given.count_path is None):
        raise WrongUsage("--count and --count-path belong together.")
    counting = given.count and Counting(method=given.count, path=given.count_path, request=_text(given.count_request))
    tls = Tls(ca=given.ca, certificate=given.cert, key=given.cert_key) if given.tls or given.ca or given.cert else None
    return Settings(
        address=given.address,
        method=given.method,
        requests=_texts(given.request) or ("{}",),
        count=counting,
        metadata=tuple(map(_entry, given.metadata)),
        principals=tuple((_entry(one),) for one in given.callers_as),
        header=given.header.lower(),
        key_field=given.key_field,
        message_count_header=given.message_count_header.lower(),
        refusals=dict(map(_refusal, given.refusal)),
        ignored_trailers=frozenset(given.ignore_trailer),
        other_body=_texts(given.other_body),
        failing_request=_texts(given.failing_request),
        large_request=_texts(given.large_request),
        other_method=given.other_method,
        other_request=_texts(given.other_request) or ("{}",),
        restart=given.restart,
        kill=given.kill,
        replica=given.replica,
        ttl=given.ttl,
        only=given.only,
        skip=given.skip,
        known_failing=_listed(given.known_failing),
        wait=given.wait,
        timeout=given.timeout,
        trials=given.trials,
        callers=given.callers,
        seed=secrets.randbelow(10_000) if given.seed is None else given.seed,
        descriptor_set=Path(given.descriptor_set).read_bytes() if given.descriptor_set else b"",
        tls=tls,
    )


def _texts(values: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(map(_text, values or ()))


def _text(value: str) -> str:
    return Path(value[1:]).read_text() if value.startswith("@") else value


def _entry(value: str) -> tuple[str, str]:
    """Reads an entry of metadata. Its value may be in the environment, and is in no error."""
    name, colon, text = value.partition(":")
    if not colon or not name.strip():
        raise WrongUsage("An entry of metadata has no colon, or no name before it. Write 'NAME: VALUE'.")
    text = text.strip()
    variable = re.fullmatch(r"\$(\w+)", text)
    if variable and variable[1] not in os.environ:
        raise WrongUsage(f"There is no environment variable {variable[1]}.")
    text = os.environ[variable[1]] if variable else text
    if not (text.isascii() and text.isprintable()):
        raise WrongUsage(f"The value of {name.strip()} has characters that metadata can't have.")
    return name.strip().lower(), text


def _refusal(value: str) -> tuple[str, frozenset[str]]:
    kind, _, codes = value.partition("=")
    if not codes:
        raise WrongUsage(f"--refusal {value}: write KIND=CODE[,CODE].")
    return kind, frozenset(codes.upper().split(","))


def _listed(file: str | None) -> frozenset[str]:
    """Reads the ids of probes, one on a line. What follows a # is a comment."""
    lines = Path(file).read_text().splitlines() if file else []
    return frozenset(filter(None, (line.partition("#")[0].strip() for line in lines)))


def _positive(value: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", value) or not float(value):
        raise argparse.ArgumentTypeError("must be a number of seconds above 0")
    return float(value)


def _count(value: str) -> int:
    if not value.isdecimal() or not 0 < int(value) <= 1000:
        raise argparse.ArgumentTypeError("must be a whole number, from 1 to 1000")
    return int(value)
