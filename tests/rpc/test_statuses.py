"""Which statuses are stored, and which release the operation (4.6)."""

from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from grpc_idempotency import Code, Disposition, Effects, Policy

from ..harness.replies import new_key, text
from ..harness.servers import Servers

STORED = {
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "FAILED_PRECONDITION",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "DATA_LOSS",
}
RELEASED = {"UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED", "UNAUTHENTICATED", "PERMISSION_DENIED"}
UNCLEAR = {"UNKNOWN", "INTERNAL", "DEADLINE_EXCEEDED", "CANCELLED"}


class Answering:
    """Answers with the status that the request names; counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    async def __call__(self, request: StringValue, context: Any) -> StringValue:
        self.runs += 1
        if request.value != "OK":
            await context.abort(grpc.StatusCode[request.value], f"answer {self.runs}")
        return text(f"answer {self.runs}")


async def stored(service: Any, code: str) -> bool:
    """Whether an answer with this status is stored; checks that both calls got it."""
    key = new_key()
    first, second = [await service.call("Do", text(code), key=key) for _ in range(2)]
    assert first.status is second.status is grpc.StatusCode[code]
    assert first.mark == "executed"
    assert (second.mark == "replayed") == (second.plain == first.plain)
    return bool(second.mark == "replayed")


@pytest.mark.parametrize("effects", list(Effects), ids=lambda effects: effects.value)
async def test_all_seventeen(serve: Servers, effects: Effects) -> None:
    """Each of the 17 statuses is stored or released as the table says; the unclear ones by effects (4.6)."""
    service = await serve({"Do": Answering()}, policy=Policy(effects=effects))
    assert {code.name for code in grpc.StatusCode} == STORED | RELEASED | UNCLEAR
    expected = STORED | UNCLEAR if effects is Effects.OPAQUE else STORED
    assert {code.name for code in grpc.StatusCode if await stored(service, code.name)} == expected


async def test_policy_can_change_each(serve: Servers) -> None:
    """A policy stores what would be released, and releases what would be stored (4.6)."""
    statuses = {Code[name]: Disposition.RELEASE for name in (STORED | UNCLEAR) - {"OK"}}
    statuses |= {Code[name]: Disposition.STORE for name in RELEASED}
    service = await serve({"Do": Answering()}, policy=Policy(statuses=statuses))
    assert {code.name for code in grpc.StatusCode if await stored(service, code.name)} == RELEASED | {"OK"}


async def test_a_released_operation_leaves_nothing(serve: Servers) -> None:
    """A released operation is absent: no record, and another request may use its key (4.6)."""
    service = await serve({"Do": Answering()})
    key = new_key()
    await service.call("Do", text("UNAVAILABLE"), key=key)
    assert await service.records() == []
    reply = await service.call("Do", text("OK"), key=key)
    assert (reply.mark, reply.text) == ("executed", "answer 2")
