"""An operator sees one operation: by its name, or by what its client sent (6.4)."""

import json
from base64 import b64encode
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from grpc_idempotency import Caller, Code, Effects, Outcome, SQLiteStore, mtls_or_shared, token_subject
from grpc_idempotency.__main__ import main
from grpc_idempotency._operation.values import encode
from grpc_idempotency.operating import completed, framed, name_of
from grpc_idempotency.records import Step
from shop.orders.v1.orders_pb2 import Order

from .operations import METHODS, REASON, Printed, add, held, lapsed

ORDERS = "/shop.orders.v1.OrderService/CreateOrder"
TYPES = ("--body", "--module", "shop.orders.v1.orders_pb2")


def shown(printed: Printed, *arguments: str) -> Any:
    """What the command prints as JSON."""
    assert main(["show", *arguments, "--json"]) == 0
    return json.loads(printed())


def facts(text: str) -> dict[str, str]:
    """The lines of an operation's facts."""
    lines = text.split("\n\n")[0].splitlines()
    return {line[:12].strip(): line[12:].strip() for line in lines}


def timeline(text: str) -> list[str]:
    """The events of an operation, without their times."""
    return [line[21:] for line in text.split("\n\n")[1].splitlines()]


def test_show(store: SQLiteStore, url: str, printed: Printed) -> None:
    """Where it stands, and its timeline: claim, steps, completion; nothing confidential unless asked for (6.4)."""
    claim = add(store, name=b"\xab" * 16)
    add(store, name=b"\xac" * 16)
    assert store.record_step(claim.name, claim.fence, Step(name="charge", position=0, result=b"b\xfe", undoable=True))
    assert store.record_step(claim.name, claim.fence, Step(name="undo:charge", position=-1, result=b"jnull"))
    done = Outcome(status=Code.OK, message=b"\xca\xfe", details="a\nb", trailers=(("x-mine", "1"), ("x-bin", b"\1")))
    assert store.complete(claim.name, claim.fence, done, timedelta(hours=1))
    assert main(["show", url, "AB"]) == 0
    text = printed()
    told = facts(text)
    assert told["operation"] == "ab" * 16
    assert (told["state"], told["method"], told["effects"], told["attempts"]) == (
        "completed",
        METHODS[0],
        "opaque",
        "1",
    )
    assert (told["outcome"], told["response"], told["fence"]) == ("OK: a\\nb", "2 bytes", claim.fence.hex())
    assert timeline(text) == [
        "claimed for the first time",
        "step charge finished, and can be undone",
        "step charge was undone",
        "completed with OK",
    ]
    assert "x-mine" not in text
    assert b64encode(b"\xca\xfe").decode() not in text
    assert main(["show", url, "ab", "--body"]) == 0
    text = printed()
    assert b64encode(b"\xca\xfe").decode() in text
    assert "x-mine" in text
    told = shown(printed, url, "ab" * 16, "--body")
    assert [(step["step"], step["undoable"], step["result"]) for step in told["steps"]] == [
        ("charge", True, {"base64": b64encode(b"\xfe").decode()}),
        ("undo:charge", False, None),
    ]
    assert told["message"] == {"base64": b64encode(b"\xca\xfe").decode()}
    assert told["trailers"] == [["x-mine", "1"], ["x-bin", b64encode(b"\1").decode()]]
    assert told["details"] == "a\nb"


@pytest.mark.parametrize(
    ("state", "now", "advice"),
    [
        ("held", "held, first claimed 0s ago: its server stopped", "resolve STORE"),
        ("running", "running, first claimed 0s ago, its lease holds", None),
        ("lapsed", "running, first claimed 0s ago, its lease has run out", "will hold it"),
        ("repeatable", "running, first claimed 0s ago, its lease has run out", "will run it again"),
        ("waiting", "waiting, first claimed 0s ago, not due yet", None),
    ],
)
def test_what_to_do(
    store: SQLiteStore,
    url: str,
    printed: Printed,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    now: str,
    advice: str | None,
) -> None:
    """The last line of the timeline says where it stands; below, what an operator can do about it (6.4)."""
    monkeypatch.setattr("grpc_idempotency._command.show.age", lambda *_: "0s")
    claim = (
        held(store)
        if state == "held"
        else lapsed(store, effects=Effects.OPAQUE if state == "lapsed" else Effects.REPEATABLE)
        if state in ("lapsed", "repeatable")
        else add(store)
    )
    if state == "waiting":
        assert store.wait(claim.name, claim.fence, timedelta(hours=1), 1, 0)
    assert main(["show", url, claim.name.hex()]) == 0
    text = printed()
    assert timeline(text)[-1] == now
    assert facts(text)["owner"] == "host:7"
    rest = text.split("\n\n")[2:]
    assert len(rest) == (advice is not None)
    assert advice is None or advice in rest[0]


def test_advice_fits_the_command_line(
    store: SQLiteStore, url: str, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the environment names the store, the advice needs nothing in front; a URL is not repeated (6.4)."""
    name = held(store).name.hex()
    assert main(["show", url, name]) == 0
    assert f"grpc-idempotency resolve STORE {name} --never-happened" in printed()
    monkeypatch.setenv("GRPC_IDEMPOTENCY_STORE", url)
    assert main(["show", name]) == 0
    [advice] = [line for line in printed().splitlines() if "--never-happened" in line]
    assert main([*advice.split()[4:], *REASON]) == 0
    assert store.get(bytes.fromhex(name)) is None


@pytest.mark.parametrize(
    ("outcome", "streams", "response"),
    [
        (Outcome(status=Code.OK), False, "not kept"),
        (Outcome(status=Code.NOT_FOUND), False, None),
        (Outcome(status=Code.NOT_FOUND), True, "not kept"),
        (Outcome(status=Code.OK, message=b""), False, "0 bytes"),
    ],
)
def test_a_response_that_is_not_kept(
    store: SQLiteStore, url: str, printed: Printed, outcome: Outcome, streams: bool, response: str | None
) -> None:
    """It is said where there should be one; a failure of a unary method has none."""
    claim = add(store, streams=streams)
    assert store.complete(claim.name, claim.fence, outcome, timedelta(hours=1))
    assert main(["show", url, claim.name.hex()]) == 0
    assert facts(printed()).get("response") == response


def test_a_note_of_a_program(store: SQLiteStore, url: str, printed: Printed) -> None:
    """A program may leave out who and why. The outcome is an operator's all the same (6.4)."""
    claim = held(store)
    record = store.get(claim.name)
    assert record is not None
    completed(store, record, Outcome(status=Code.NOT_FOUND))
    assert main(["show", url, claim.name.hex()]) == 0
    assert sorted(timeline(printed())[1:]) == ["completed", "completed with NOT_FOUND by an operator"]


def test_what_is_being_undone(store: SQLiteStore, url: str, printed: Printed) -> None:
    """The list and the operation tell for which failure, also when an operator has to go on with it (5.2, 6.4)."""
    claim = add(store)
    failure = Outcome(status=Code.NOT_FOUND, details="no such user", trailers=(("x-mine", "1"),))
    assert store.undo(claim.name, claim.fence, failure)
    assert main(["ls", url, "--state", "undoing"]) == 0
    assert printed().rstrip().endswith("failed with NOT_FOUND")
    assert store.wait(claim.name, claim.fence, timedelta(hours=1), 0, 1)
    assert main(["ls", url]) == 0
    assert printed().rstrip().endswith("failed with NOT_FOUND")
    assert main(["show", url, claim.name.hex(), "--body"]) == 0
    text = printed()
    told = facts(text)
    assert (told["state"], told["failed undos"], told["failure"]) == ("waiting", "1", "NOT_FOUND: no such user")
    assert "x-mine" in text


def test_what_operators_did(store: SQLiteStore, url: str, printed: Printed) -> None:
    """The notes of operators are in the timeline, also when there is no record any more (6.4)."""
    kept, gone = held(store), held(store)
    assert main(["resolve", url, kept.name.hex(), "--completed", *REASON]) == 0
    assert main(["resolve", url, gone.name.hex(), "--never-happened", *REASON]) == 0
    printed()
    assert main(["show", url, kept.name.hex()]) == 0
    assert "completed, says ann@desk: ticket 7" in timeline(printed())
    assert main(["show", url, gone.name.hex()]) == 0
    text = printed()
    assert facts(text) == {"operation": gone.name.hex(), "state": "absent"}
    assert timeline(text) == ["never happened, says ann@desk: ticket 7"]
    told = shown(printed, url, gone.name.hex())
    assert (told["state"], [note["by"] for note in told["notes"]]) == ("absent", ["ann@desk"])


@pytest.mark.parametrize("name", ["a", "ad", "ab" * 15 + "aa", "xyz", "ab" * 17])
def test_show_of_none(store: SQLiteStore, url: str, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """No such operation, or several: one line says so, and the exit code is 1 (6.4)."""
    add(store, name=b"\xab" * 16)
    add(store, name=b"\xac" * 16)
    assert main(["show", url, name]) == 1
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert error.startswith("grpc-idempotency: ")


# Bodies


def test_bodies_of_known_types(store: SQLiteStore, url: str, printed: Printed) -> None:
    """With the types, a response and messages in steps are told as JSON (6.4)."""
    claim = add(store, ORDERS)
    order = Order(id="order-1")
    results = {"made": order, "number": 7, "bytes": b"\1"}
    for position, (name, result) in enumerate(results.items()):
        assert store.record_step(claim.name, claim.fence, Step(name=name, position=position, result=encode(result)))
    outcome = Outcome(status=Code.OK, message=order.SerializeToString())
    assert store.complete(claim.name, claim.fence, outcome, timedelta(hours=1))
    told = shown(printed, url, claim.name.hex(), *TYPES)
    assert told["message"] == {"id": "order-1"}
    assert {step["step"]: step["result"] for step in told["steps"]} == {
        "made": {"id": "order-1"},
        "number": 7,
        "bytes": {"base64": "AQ=="},
    }
    told = shown(printed, url, claim.name.hex(), "--body")
    assert {step["step"]: list(step["result"]) for step in told["steps"] if step["step"] == "made"} == {
        "made": ["base64"]
    }
    assert main(["show", url, claim.name.hex(), *TYPES]) == 0
    text = printed()
    assert '\nmessage\n  {\n    "id": "order-1"\n  }\n' in text
    assert "\nresult of step number\n  7\n" in text


def test_the_body_of_a_stream(store: SQLiteStore, url: str, printed: Printed) -> None:
    """The messages of a stream are a list (4.8)."""
    claim = add(store, ORDERS, streams=True)
    messages = [Order(id=name).SerializeToString() for name in ("one", "two")]
    assert store.complete(claim.name, claim.fence, Outcome(status=Code.OK, message=framed(messages)), timedelta(1))
    assert shown(printed, url, claim.name.hex(), *TYPES)["message"] == [{"id": "one"}, {"id": "two"}]
    assert len(shown(printed, url, claim.name.hex(), "--body")["message"]) == 2


def test_a_body_of_another_type(store: SQLiteStore, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A response that is not of the method's type is told in one line."""
    claim = add(store, ORDERS)
    assert store.complete(claim.name, claim.fence, Outcome(status=Code.OK, message=b"\xff"), timedelta(1))
    assert main(["show", url, claim.name.hex(), *TYPES]) == 1
    assert "is not a shop.orders.v1.Order" in capsys.readouterr().err
    assert main(["show", url, claim.name.hex(), *TYPES[1:]]) == 2
    assert "with --body" in capsys.readouterr().err


# By what its client sent

KEY = "order-1-of-alice"


def caller(**known: Any) -> Caller:
    defaults: dict[str, Any] = {"peer_identity_key": None, "peer_identities": (), "metadata": (), "auth_context": {}}
    return Caller(method=ORDERS, peer="ipv4:1", **{**defaults, **known})


IDENTIFIED = caller(peer_identity_key="x509_common_name", peer_identities=[b"web", b"api"])
AUTHORIZED = caller(metadata=[("authorization", "Bearer t")])


def subject(**claims: str) -> bytes:
    principal = token_subject(lambda _: claims)(AUTHORIZED)
    assert principal is not None
    return principal


@pytest.mark.parametrize(
    ("principal", "options"),
    [
        (mtls_or_shared(caller()), []),
        (b"alice", ["--principal", "alice"]),
        ("älice".encode(), ["--principal", "älice"]),
        (b"\0\xff", ["--principal-hex", "00ff"]),
        (subject(sub="alice"), ["--subject", "alice"]),
        (subject(sub="alice", iss="https://i"), ["--subject", "alice", "--issuer", "https://i"]),
        (mtls_or_shared(IDENTIFIED), ["--identity", "x509_common_name=api", "--identity", "x509_common_name=web"]),
    ],
)
@pytest.mark.parametrize("given", [KEY, f'"{KEY}"'], ids=["plain", "quoted"])
def test_by_key(
    store: SQLiteStore, url: str, capsys: pytest.CaptureFixture[str], principal: bytes, options: list[str], given: str
) -> None:
    """An operation is found by principal, method and key; the key is never printed (3.1, 6.4)."""
    add(store, ORDERS, name_of(b"somebody else", ORDERS, KEY))
    claim = add(store, ORDERS, name_of(principal, ORDERS, KEY))
    for store_given in ([url], []):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GRPC_IDEMPOTENCY_STORE", url)
            assert main(["show", *store_given, "--method", ORDERS, "--key", given, *options]) == 0
        out, error = capsys.readouterr()
        assert claim.name.hex() in out
        assert KEY not in out + error


@pytest.mark.parametrize("secret", [b"s" * 16, b"s" * 16 + b"\n", b"\0" * 15 + b"\r\n"])
def test_by_key_with_a_secret(
    store: SQLiteStore, url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, secret: bytes
) -> None:
    """The secret comes from a file or from the environment, and never from the command line (3.1)."""
    name = name_of(b"alice", ORDERS, KEY, secret)
    add(store, ORDERS, name)
    asked = ["show", url, "--principal", "alice", "--method", ORDERS, "--key", KEY]
    assert main(asked) == 1
    out, error = capsys.readouterr()
    assert (out, error.count("\n"), KEY in error) == ("", 1, False)
    assert "give --secret-file or set GRPC_IDEMPOTENCY_SECRET" in error
    files = [secret] if secret.endswith(b"\n") else [secret, secret + b"\n"]
    for number, content in enumerate(files):
        (tmp_path / f"secret{number}").write_bytes(content)
        assert main([*asked, "--secret-file", str(tmp_path / f"secret{number}")]) == 0
        assert name.hex() in capsys.readouterr().out


def test_by_key_with_a_secret_of_the_environment(
    store: SQLiteStore, url: str, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable has the secret as the server's environment would have it."""
    name = name_of(b"alice", ORDERS, KEY, b"s" * 16)
    add(store, ORDERS, name)
    monkeypatch.setenv("GRPC_IDEMPOTENCY_SECRET", "s" * 16)
    assert shown(printed, url, "--principal", "alice", "--method", ORDERS, "--key", KEY)["operation"] == name.hex()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--key", "k"], "--key and --method belong together"),
        (["ab", "--method", ORDERS], "--key and --method belong together"),
        (["ab", "--key", "k", "--method", ORDERS], "name the operation by its name, or by --key and --method"),
        ([], "name the operation by its name, or by --key and --method"),
        (["--key", "", "--method", ORDERS], "the key is not valid"),
        (["--key", "k", "--method", ORDERS, "--secret-file", "{short}"], "16 or more random bytes"),
        (["--key", "k", "--method", ORDERS, "--identity", "a=b", "--identity", "b=b"], "one property"),
        (["--key", "k", "--method", ORDERS, "--principal", ""], "the principal is empty"),
    ],
)
def test_no_operation_is_named(
    store: SQLiteStore, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    """A command line that names no operation, or two, is told in one line, with exit code 2."""
    (tmp_path / "short").write_bytes(b"short")
    assert main(["show", url, *(option.format(short=tmp_path / "short") for option in options)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
