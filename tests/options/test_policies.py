"""Where a method's policy comes from, and what becomes of one that can't be met (7)."""

from collections.abc import Mapping
from dataclasses import fields
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import MethodOptions

from grpc_idempotency import Code, Disposition, Effects, Policy, PolicyError
from grpc_idempotency._methods.resolve import Method, Methods
from grpc_idempotency.v1 import policy_pb2

from .helpers import add, compiled, declare, rpc, served

kinds = pytest.mark.parametrize("kind", ["async", "sync"])
cardinalities = pytest.mark.parametrize(
    ("requests", "replies"),
    [(False, False), (False, True), (True, False), (True, True)],
    ids=["unary", "server-stream", "client-stream", "bidirectional"],
)

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
REPEATABLE, KEPT = Effects.REPEATABLE, Policy(ttl=timedelta(days=7), effects=Effects.TRANSACTIONAL)


def methods(default: Policy = Policy(), by_name: Mapping[str, Policy] | None = None) -> Methods:  # noqa: B008  # frozen
    return Methods(default, by_name or {}, lambda _policy: None)


def found(method: str, default: Policy = Policy(), **by_name: Policy) -> Method:  # noqa: B008  # frozen
    """The rules of a method that is declared so; ``exact`` and ``glob`` configure it in Python."""
    service = declare(method)
    names = {"exact": f"{service}Do", "glob": f"{service}*"}
    return methods(default, {names[name]: policy for name, policy in by_name.items()})[f"{service}Do"]


# Which source is stronger


def test_the_order_of_the_sources() -> None:
    """Python by name, then by glob, then the method's option, then its idempotency_level, then the default (7)."""
    level, option = "idempotency_level = IDEMPOTENT", "{ttl: {seconds: 3600} effects: EFFECTS_TRANSACTIONAL}"
    method = rpc(level, option)
    assert found(method, exact=KEPT, glob=Policy()).policy is KEPT
    assert found(method, glob=KEPT).policy is KEPT
    assert found(method).policy == Policy(ttl=HOUR, effects=Effects.TRANSACTIONAL)
    assert found(rpc(level)).policy == Policy(effects=REPEATABLE)
    assert found(rpc(), KEPT).policy is KEPT


def test_an_option_is_laid_over_the_default() -> None:
    """A setting that an option leaves out is that of the default policy, and before that of idempotency_level (7)."""
    default = Policy(required=True, wait=HOUR, headers=("x-key",), fingerprint_exclude=("name",))
    assert found(rpc("{ttl: {seconds: 3600}}"), default).policy == Policy(
        ttl=HOUR, required=True, wait=HOUR, headers=("x-key",), fingerprint_exclude=("name",)
    )
    assert found(rpc("idempotency_level = IDEMPOTENT", "{required: false}"), default).policy == Policy(
        effects=REPEATABLE, wait=HOUR, headers=("x-key",), fingerprint_exclude=("name",)
    )
    assert found(rpc("{}"), default).policy == default
    assert found(rpc("{effects: EFFECTS_UNSPECIFIED}"), KEPT).policy == KEPT


def test_statuses_join_those_of_the_default() -> None:
    """A status that an option names is stored or released; others are as the default policy has them (4.6)."""
    default = Policy(statuses={Code.ABORTED: Disposition.STORE, Code.NOT_FOUND: Disposition.STORE})
    policy = found(rpc("{released: [CODE_NOT_FOUND, CODE_INTERNAL] stored: CODE_UNAVAILABLE}"), default).policy
    assert policy.statuses == {
        Code.ABORTED: Disposition.STORE,
        Code.NOT_FOUND: Disposition.RELEASE,
        Code.INTERNAL: Disposition.RELEASE,
        Code.UNAVAILABLE: Disposition.STORE,
    }


def test_an_option_can_say_all_that_a_policy_says() -> None:
    """Every field of Policy is in the option, under its name; every status and kind of effects too (7)."""
    named = {field.name for field in policy_pb2.Policy.DESCRIPTOR.fields}
    assert named - {"stored", "released"} == {field.name for field in fields(Policy)} - {"statuses"}
    assert policy_pb2.Effects.keys() == ["EFFECTS_UNSPECIFIED", *(f"EFFECTS_{each.name}" for each in Effects)]
    assert dict(policy_pb2.Code.items()) == {
        "CODE_UNSPECIFIED": 0,
        **{f"CODE_{code.name}": code for code in Code if code is not Code.OK},
    }
    everything = """{
        effects: EFFECTS_TRANSACTIONAL required: true headers: ["x-a", "x-b"] ttl: {seconds: 1} lease: {seconds: 4}
        renew_every: {seconds: 2} wait: {} wait_margin: {nanos: 5000000} execution_limit: {seconds: 6}
        max_request_bytes: 7 max_response_bytes: 8 max_trailer_bytes: 9 stored: CODE_INTERNAL
        fingerprint_exclude: ["name", "header.sent_at"] pass_bidirectional: true replay_reads: true unprotected: true
    }"""
    assert found(rpc(everything)).policy == Policy(
        effects=Effects.TRANSACTIONAL,
        required=True,
        headers=("x-a", "x-b"),
        ttl=timedelta(seconds=1),
        lease=timedelta(seconds=4),
        renew_every=timedelta(seconds=2),
        wait=timedelta(0),
        wait_margin=timedelta(milliseconds=5),
        execution_limit=timedelta(seconds=6),
        max_request_bytes=7,
        max_response_bytes=8,
        max_trailer_bytes=9,
        statuses={Code.INTERNAL: Disposition.STORE},
        fingerprint_exclude=("name", "header.sent_at"),
        pass_bidirectional=True,
        replay_reads=True,
        unprotected=True,
    )


def test_reads_pass_unless_they_are_to_be_kept() -> None:
    """A method marked NO_SIDE_EFFECTS passes through; with replay_reads it is shared, kept, and may be repeated (7)."""
    level = "idempotency_level = NO_SIDE_EFFECTS"
    assert found(rpc(level, "{ttl: {seconds: 3600}}")).passes
    kept = found(rpc(level, "{ttl: {seconds: 3600} replay_reads: true}"))
    assert not kept.passes
    assert kept.policy == Policy(ttl=HOUR, replay_reads=True, effects=REPEATABLE)


# What can't be met

UNMET = {
    "{lease: {seconds: 6}}": "renew_every",
    "{ttl: {}}": "ttl",
    "{ttl: {seconds: 283824000000}}": "ttl",
    "{lease: {seconds: 283824000000}}": "lease",
    "{max_tries: 0}": "max_tries",
    "{wait: {seconds: -1}}": "wait",
    "{execution_limit: {seconds: 99999999999999}}": "execution_limit",
    "{max_response_bytes: -1}": "max_response_bytes",
    '{headers: "x-key-bin"}': "x-key-bin",
    '{headers: "X-Key"}': "X-Key",
    "{stored: CODE_ABORTED released: CODE_ABORTED}": "ABORTED is both",
    "{released: CODE_UNSPECIFIED}": "number 0",
    '{fingerprint_exclude: "nam"}': "'nam'",
    '{fingerprint_exclude: "header.sent"}': "'header.sent'",
    '{fingerprint_exclude: "name.sent_at"}': "'name.sent_at'",
    '{fingerprint_exclude: "by_name.sent_at"}': "'by_name.sent_at'",
    '{fingerprint_exclude: ""}': "''",
}


@pytest.mark.parametrize("option", UNMET)
def test_an_option_that_cannot_be_met(option: str) -> None:
    """It is a PolicyError that names the method and what is wrong, each time it is asked for (7)."""
    service = declare(rpc(option))
    rules = methods()
    for _ in range(2):
        with pytest.raises(PolicyError) as caught:
            rules[f"{service}Do"]
        assert f"{service}Do" in str(caught.value)
        assert UNMET[option] in str(caught.value)


def test_python_has_the_last_word() -> None:
    """An option that can't be met does no harm where Python has a policy for the method (7)."""
    assert found(rpc("{lease: {seconds: 6}}"), exact=KEPT).policy is KEPT


@pytest.mark.parametrize("effects", ["OPAQUE", "TRANSACTIONAL"])
def test_a_read_has_no_effects(effects: str) -> None:
    """NO_SIDE_EFFECTS and effects that are not REPEATABLE contradict each other (7)."""
    level = "idempotency_level = NO_SIDE_EFFECTS"
    with pytest.raises(PolicyError, match=f"NO_SIDE_EFFECTS.*{effects}"):
        found(rpc(level, f"{{effects: EFFECTS_{effects}}}"))
    assert found(rpc(level, "{effects: EFFECTS_REPEATABLE}")).passes


@pytest.mark.parametrize("field", [b"\xf8\x07\x01", b"\x08\x63", b"\x70\x63"], ids=["field", "effects", "status"])
def test_what_a_newer_option_says(field: bytes, tmp_path: Any) -> None:
    """A field, effects or a status that this version does not know is not passed over (7)."""
    name = f"newer{field.hex()}"
    (tmp_path / f"{name}.proto").write_text(
        f'syntax = "proto3"; package {name}; import "grpc_idempotency/v1/policy.proto"; message Request {{}}'
        f" service Service {{ {rpc('{required: true}')} }}"
    )
    file = compiled(f"{name}.proto", tmp_path)
    options = file.service[0].method[0].options
    options.MergeFromString(_extension(field))
    add(file)
    with pytest.raises(PolicyError, match=r"does not know|knows none|number 99"):
        methods()[f"/{name}.Service/Do"]


def _extension(value: bytes) -> bytes:
    """Our option on the wire, with this in it."""
    options: Any = policy_pb2.Policy.FromString(value)
    extended = MethodOptions()
    extension: Any = policy_pb2.policy
    extended.Extensions[extension].CopyFrom(options)
    return extended.SerializeToString()


@kinds
async def test_transactions_that_the_store_does_not_have(kind: str) -> None:
    """An option that asks for transactions of a store without them keeps the server from starting (7)."""
    service = declare(rpc("{effects: EFFECTS_TRANSACTIONAL}"))
    with pytest.raises(PolicyError, match=f"{service}Do.*TRANSACTIONAL"):
        async with served(kind, service):
            pass


@kinds
@cardinalities
async def test_what_was_not_checked_at_start_fails_at_the_first_call(
    kind: str, requests: bool, replies: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Without attach every call of the method fails, keyed or not; its handler never runs unprotected (7)."""
    service = declare(rpc("{lease: {seconds: 6}}"))
    async with served(kind, service, attach=False, requests=requests, replies=replies) as server:
        for metadata in ((), (("idempotency-key", "a"),)):
            reply = await server.call(*metadata)
            assert (reply.status, reply.mark) == (grpc.StatusCode.INTERNAL, "refused")
            assert "policy can't be met" in reply.details
            assert "lease" not in reply.details
    assert server.runs == 0
    lines = [record.getMessage() for record in caplog.records if record.name == "grpc_idempotency"]
    assert len([line for line in lines if f"{service}Do" in line and "Policy.lease" in line]) == 2


# What attach finds


@kinds
async def test_names_that_the_server_does_not_have(kind: str) -> None:
    """A name or glob that no method answers to keeps the server from starting, and so does a path in no request (7)."""
    service = declare(rpc())
    wrong: list[dict[str, Any]] = [
        {"policies": {f"{service}Don": Policy()}},
        {"policies": {"/other.Service/*": Policy()}},
        {"policies": {f"{service}Do": Policy(fingerprint_exclude=("nam",))}},
        {"policies": {f"{service}*": Policy(fingerprint_exclude=("nam",))}},
        {"policy": Policy(fingerprint_exclude=("nam",))},
    ]
    for options in wrong:
        with pytest.raises(PolicyError, match=r"no such method|'nam'"):
            async with served(kind, service, **options):
                pass
    async with served(kind, service, policy=Policy(fingerprint_exclude=("headers.sent_at", "by_name"))) as server:
        assert (await server.call()).status is grpc.StatusCode.OK


def test_all_that_is_wrong_is_told_at_once() -> None:
    """The error at start names every method whose policy can't be met (7)."""
    service = declare(rpc("{ttl: {}}"), rpc("{ttl: {}}", name="Other"), rpc(name="Third"))
    rules = methods(by_name={f"{service}Fourth": Policy()})
    with pytest.raises(PolicyError) as caught:
        rules.check({f"{service}{name}" for name in ("Do", "Other", "Third")})
    assert all(f"{service}{name}" in str(caught.value) for name in ("Do", "Other", "Fourth"))
    assert f"{service}Third" not in str(caught.value)


def test_a_path_that_some_methods_have() -> None:
    """A default policy or a glob may leave out what only some of its methods have; a method unknown to protobuf may
    have anything (7).
    """
    service = declare(rpc(), rpc(name="Other", takes="Header"))
    names = {f"{service}Do", f"{service}Other"}
    methods(Policy(fingerprint_exclude=("sent_at", "name"))).check(names)
    methods(Policy(fingerprint_exclude=("sent_at", "nam"))).check({*names, "/unknown.Service/Do"})
    with pytest.raises(PolicyError, match="'nam'"):
        methods(Policy(fingerprint_exclude=("sent_at", "nam"))).check(names)


# In a running server


@kinds
async def test_an_option_is_obeyed(kind: str) -> None:
    """A key comes in the header that the method's own option names, and is asked for (2.1, 7)."""
    service = declare(rpc('{headers: "payment-key" required: true}'))
    async with served(kind, service) as server:
        assert (await server.call(("idempotency-key", "a"))).status is grpc.StatusCode.INVALID_ARGUMENT
        assert [(await server.call(("payment-key", "a"))).mark for _ in range(2)] == ["executed", "replayed"]
    assert server.runs == 1


@kinds
async def test_a_kept_read(kind: str) -> None:
    """A keyed call of a read whose option says replay_reads is replayed; without it, it passes through (7)."""
    level = "idempotency_level = NO_SIDE_EFFECTS"
    for option, marks in (("{replay_reads: true}", ["executed", "replayed"]), ("{}", [None, None])):
        async with served(kind, declare(rpc(level, option))) as server:
            assert [(await server.call(("idempotency-key", "a"))).mark for _ in range(2)] == marks
