"""Policies that can't be met (DESIGN 7), and which method gets which."""

from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

import grpc_idempotency
import shop.orders.v1.orders_pb2
from grpc_idempotency import ClientPolicy, aio
from grpc_idempotency._client.keys import Clients
from grpc_idempotency._methods.resolve import Methods
from grpc_idempotency.errors import PolicyError
from grpc_idempotency.policy import Disposition, Policy
from grpc_idempotency.records import Code, Effects

DURATIONS = ("ttl", "lease", "renew_every", "wait", "wait_margin", "execution_limit")
BELOW_ZERO = timedelta(seconds=-1)
LONGEST = timedelta(days=36_525)
ENDLESS = (timedelta.max, timedelta(days=365 * 9000), LONGEST + timedelta(microseconds=1))
ALL_DURATIONS = (*DURATIONS, "retry_delay")
COUNTS = ("max_request_bytes", "max_response_bytes", "max_trailer_bytes", "max_tries")
FLAGS = ("required", "pass_bidirectional", "replay_reads", "unprotected")
NO_DURATIONS: tuple[Any, ...] = (60, 1.5, float("nan"), True, None, "60s")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(name, BELOW_ZERO) for name in DURATIONS],
        *[(name, timedelta(0)) for name in ("ttl", "lease", "renew_every", "execution_limit")],
        ("renew_every", timedelta(seconds=16)),
        ("max_response_bytes", -1),
        ("max_trailer_bytes", -1),
        ("headers", ()),
        ("headers", "idempotency-key"),
        ("headers", ("Idempotency-Key",)),
        ("headers", ("",)),
        ("headers", ("-",)),
        ("headers", ("key with spaces",)),
        ("headers", ("schlüssel",)),
        ("headers", ("k" * 129,)),
        ("headers", ("key-bin",)),
        ("headers", ("grpc-key",)),
        ("statuses", {Code.OK: Disposition.RELEASE}),
        ("statuses", {14: Disposition.STORE}),
        ("statuses", {Code.ABORTED: "store"}),
        ("kept_metadata", ("x-tenant", "idempotency-key")),
        ("kept_metadata", ("X-Tenant",)),
        ("statuses", None),
        ("statuses", [(Code.ABORTED, Disposition.STORE)]),
        *[(name, value) for name in ALL_DURATIONS for value in (*ENDLESS, *NO_DURATIONS)],
        *[(name, value) for name in COUNTS for value in (-1, 1.5, float("nan"), True, None, "9")],
        *[(name, value) for name in FLAGS for value in (None, 1, "no")],
        *[("recover", value) for value in (1, "no")],
        *[("effects", value) for value in ("opaque", None, 1)],
        *[
            (name, value)
            for name in ("headers", "kept_metadata", "fingerprint_exclude")
            for value in (None, "a", b"a", 5, ("a", 5))
        ],
    ],
)
def test_a_value_that_can_not_be_met_is_named(field: str, value: Any) -> None:
    """PolicyError says which field is wrong (7)."""
    with pytest.raises(PolicyError, match=rf"Policy\.{field}"):
        Policy(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("wait", timedelta(0)),
        ("wait_margin", timedelta(0)),
        ("renew_every", timedelta(seconds=7.5)),
        ("max_response_bytes", 0),
        *[(name, LONGEST) for name in ("ttl", "lease", "wait", "wait_margin", "execution_limit", "retry_delay")],
        ("recover", False),
        ("fingerprint_exclude", ("a.b", "c")),
        ("headers", ("idempotency-key", "x-idempotency-key", "x_key.2")),
        ("statuses", {Code.OK: Disposition.STORE, Code.ABORTED: Disposition.STORE}),
    ],
)
def test_a_value_at_the_edge_is_taken(field: str, value: Any) -> None:
    """Zero waits, half a lease, several headers (7)."""
    assert getattr(Policy(**{field: value}), field) == value


def test_names_may_come_in_a_list() -> None:
    """They are kept as a tuple, which nobody changes afterwards."""
    policy = Policy(headers=["a", "b"], kept_metadata=["c"], fingerprint_exclude=["d"])  # type: ignore[arg-type]  # as people do
    assert (policy.headers, policy.kept_metadata, policy.fingerprint_exclude) == (("a", "b"), ("c",), ("d",))


@pytest.mark.parametrize("methods", [{"/s/M": None}, {5: Policy()}, [("/s/M", Policy())], {"/s/M": ClientPolicy()}])
def test_methods_are_policies_by_name(methods: Any) -> None:
    """Methods that are not policies by name are refused when they are given, by servers and clients."""
    with pytest.raises(PolicyError):
        Methods(Policy(), methods, lambda _policy: None)
    if not isinstance(methods, dict) or "/s/M" not in methods or methods["/s/M"] is None:
        with pytest.raises(PolicyError):
            Clients(ClientPolicy(), methods)


def test_the_default_is_a_policy() -> None:
    """Nothing, or a client's policy, is none."""
    wrong: Any
    for wrong in (None, {}, ClientPolicy()):
        with pytest.raises(PolicyError, match="policy"):
            Methods(wrong, {}, lambda _policy: None)
    with pytest.raises(PolicyError, match="policy"):
        Clients(Policy(), {})  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize(
    ("field", "value"),
    [("keyed", 1), ("keyed", "yes"), ("count_up_to", -1), ("count_up_to", True), ("count_up_to", None)],
)
def test_a_clients_policy_is_checked_as_well(field: str, value: Any) -> None:
    """A wrong value in a client's policy raises, and the error names the field."""
    with pytest.raises(PolicyError, match=rf"ClientPolicy\.{field}"):
        ClientPolicy(**{field: value})


MORE = ("sweep_every", "drain_limit")


@pytest.mark.parametrize("kind", [aio, grpc_idempotency])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(name, value) for name in MORE for value in (*ENDLESS, *NO_DURATIONS, BELOW_ZERO)],
        ("sweep_every", timedelta(0)),
        *[("max_detached", value) for value in (-1, None, True, 1.5)],
    ],
)
def test_an_interceptors_settings_are_checked(kind: Any, field: str, value: Any) -> None:
    """Its own durations and numbers too, naming the field."""
    if (field, value) == ("sweep_every", None):  # not by this process
        return
    with pytest.raises(PolicyError, match=field):
        kind.IdempotencyInterceptor(kind.MemoryStore(), **{field: value})


@pytest.mark.parametrize("kind", [aio, grpc_idempotency])
@pytest.mark.parametrize("secret", [b"", b"fifteen bytes !", "text of more than 16", bytearray(32), 5, True])
def test_a_secret_is_bytes_that_nobody_guesses(kind: Any, secret: Any) -> None:
    """An empty or short one, as from an unset variable, and what is no bytes is refused; it is not told (3.1)."""
    with pytest.raises(PolicyError, match=r"secret must be 16 or more random bytes") as caught:
        kind.IdempotencyInterceptor(kind.MemoryStore(), secret=secret)
    assert "fifteen" not in str(caught.value)
    assert "text of" not in str(caught.value)


async def a_coroutine(_caller: Any) -> str:
    return "ada"


class AwaitedObject:
    async def __call__(self, _caller: Any) -> str:
        return "ada"


@pytest.mark.parametrize("kind", [aio, grpc_idempotency])
@pytest.mark.parametrize("principal", [None, "ada", a_coroutine, partial(a_coroutine), AwaitedObject()])
def test_a_principal_function_is_a_plain_one(kind: Any, principal: Any) -> None:
    """A principal function that can't be called, or has to be awaited, is refused by the constructor (3.1)."""
    with pytest.raises(PolicyError, match="principal must be a"):
        kind.IdempotencyInterceptor(kind.MemoryStore(), principal=principal)


@pytest.mark.parametrize("value", [-1, None, True, 1.5])
def test_a_number_of_waiters_is_one(value: Any) -> None:
    """A number of waiters that is no number, or negative, is refused by the constructor."""
    with pytest.raises(PolicyError, match="max_waiters"):
        grpc_idempotency.IdempotencyInterceptor(grpc_idempotency.MemoryStore(), max_waiters=value)


def test_the_defaults_are_the_designs() -> None:
    """DESIGN 4.11, and the safest effects (4.5)."""
    policy = Policy()
    assert policy.effects is Effects.OPAQUE
    assert (policy.ttl, policy.execution_limit) == (timedelta(hours=24), timedelta(minutes=10))
    assert (policy.lease, policy.renew_every) == (timedelta(seconds=15), timedelta(seconds=5))
    assert (policy.wait, policy.wait_margin) == (timedelta(seconds=30), timedelta(milliseconds=100))
    assert (policy.max_response_bytes, policy.max_trailer_bytes) == (4 << 20, 6 << 10)
    assert (policy.required, policy.unprotected, policy.headers) == (False, False, ("idempotency-key",))


def test_a_policy_does_not_change_afterwards() -> None:
    """It is one frozen value (7)."""
    given = {Code.ABORTED: Disposition.STORE}
    policy = Policy(statuses=given)
    given[Code.UNAVAILABLE] = Disposition.STORE
    assert dict(policy.statuses) == {Code.ABORTED: Disposition.STORE}
    with pytest.raises(TypeError):
        policy.statuses[Code.ABORTED] = Disposition.RELEASE  # type: ignore[index]  # it must not have one
    with pytest.raises(AttributeError):
        policy.required = True  # type: ignore[misc]  # nor let itself be set


# Methods

EXACT, GLOB, WIDER, DEFAULT = (Policy(ttl=timedelta(hours=n)) for n in (1, 2, 3, 4))
SERVICE = "idempotency.test.methods.Levels"


def methods_of(default: Policy, by_name: Mapping[str, Policy]) -> Methods:
    """As a store that can meet every policy has them."""
    return Methods(default, by_name, lambda _policy: None)


@pytest.fixture(scope="module", autouse=True)
def levels() -> None:
    """A service with a method of each ``idempotency_level``, in the pool that generated code uses."""
    pool = descriptor_pool.Default()
    file = descriptor_pb2.FileDescriptorProto(name="idempotency_test_methods.proto", package=SERVICE.rsplit(".", 1)[0])
    for message, kind, label in (
        ("Plain", descriptor_pb2.FieldDescriptorProto.TYPE_STRING, descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL),
        ("Many", descriptor_pb2.FieldDescriptorProto.TYPE_STRING, descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED),
        ("Number", descriptor_pb2.FieldDescriptorProto.TYPE_INT64, descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL),
    ):
        file.message_type.add(name=message).field.add(name="request_id", number=1, type=kind, label=label)
    service = file.service.add(name="Levels")
    for name, level, message in (
        ("Silent", "IDEMPOTENCY_UNKNOWN", "Plain"),
        ("Repeat", "IDEMPOTENT", "Many"),
        ("Read", "NO_SIDE_EFFECTS", "Number"),
    ):
        method = service.method.add(
            name=name, input_type=f".{file.package}.{message}", output_type=f".{file.package}.{message}"
        )
        method.options.idempotency_level = descriptor_pb2.MethodOptions.IdempotencyLevel.Value(level)
    pool.AddSerializedFile(file.SerializeToString())


def test_the_strongest_source_decides() -> None:
    """An exact name, else the first glob that fits, else the proto's level, else the default (7)."""
    methods = methods_of(DEFAULT, {"/s.*/M*": GLOB, "/s.S/M": EXACT, "/s.S/*": WIDER, f"/{SERVICE}/Repeat": EXACT})
    assert methods["/s.S/M"].policy is EXACT
    assert methods["/s.S/Mx"].policy is GLOB
    assert methods["/s.S/N"].policy is WIDER
    assert methods["/t.S/N"].policy is DEFAULT
    assert methods[f"/{SERVICE}/Silent"].policy is DEFAULT
    assert methods[f"/{SERVICE}/Repeat"].policy is EXACT
    assert methods["/s.S/M"] is methods["/s.S/M"]


def test_globs_tell_upper_from_lower_case() -> None:
    """As method names do (7)."""
    assert methods_of(DEFAULT, {"/s.S/Create*": GLOB})["/s.S/create"].policy is DEFAULT


def test_a_method_that_calls_itself_idempotent_may_be_repeated() -> None:
    """``IDEMPOTENT`` means ``repeatable``; all else of the default stays (7)."""
    policy = methods_of(DEFAULT, {})[f"/{SERVICE}/Repeat"].policy
    assert (policy.effects, policy.ttl) == (Effects.REPEATABLE, DEFAULT.ttl)


def test_reads_pass() -> None:
    """``NO_SIDE_EFFECTS`` (7); what is not known to be a read does not."""
    methods = methods_of(DEFAULT, {})
    assert methods[f"/{SERVICE}/Read"].passes
    assert methods["/shop.orders.v1.OrderService/GetOrder"].passes
    assert not methods[f"/{SERVICE}/Silent"].passes
    assert not methods[f"/{SERVICE}/Repeat"].passes
    assert not methods["/no.Such/Method"].passes


def test_the_field_of_aip_155_is_a_string() -> None:
    """One that is repeated, or a number, is something else (2.1)."""
    methods = methods_of(DEFAULT, {})
    assert methods[f"/{SERVICE}/Silent"].has_request_id
    assert not methods[f"/{SERVICE}/Repeat"].has_request_id
    assert not methods[f"/{SERVICE}/Read"].has_request_id
    assert not methods["/no.Such/Method"].has_request_id
    fields = shop.orders.v1.orders_pb2.CreateOrderRequest.DESCRIPTOR.fields_by_name
    assert "request_id" in fields
    assert methods["/shop.orders.v1.OrderService/CreateOrder"].has_request_id


def test_a_name_without_a_slash_names_no_method() -> None:
    """A mistake is told at once (7)."""
    with pytest.raises(PolicyError, match="names no method"):
        methods_of(DEFAULT, {"s.S/M": EXACT})


def test_what_matches_nothing_is_found() -> None:
    """A misspelt name or glob (7)."""
    methods = methods_of(DEFAULT, {"/s.S/M": EXACT, "/s.S/X*": GLOB, "/t.*": GLOB})
    methods.check({"/s.S/M", "/s.S/Xy", "/t.T/M"})
    with pytest.raises(PolicyError, match=r"/s\.S/X\*") as caught:
        methods.check({"/s.S/M", "/s.S/Y", "/t.T/M"})
    assert "/t." not in str(caught.value)
