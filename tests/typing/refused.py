"""What a type checker has to refuse: each ignored line here is an error, and one that is none is told."""

# What is refused is of no known type.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from datetime import timedelta

import grpc_idempotency
from grpc_idempotency import Caller, Database, Effects, IdempotencyInterceptor, Policy, Refusal, SQLiteStore, aio


def policies() -> None:
    """Settings of the wrong type, and settings that there are not."""
    Policy(ttl=60)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Policy(effects="opaque")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Policy(Effects.OPAQUE)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Policy(retries=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Policy().required = True  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def stores(path: str) -> None:
    """A store of the other kind, and what is no store."""
    IdempotencyInterceptor(aio.SQLiteStore(path))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    aio.IdempotencyInterceptor(SQLiteStore(path))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    IdempotencyInterceptor(path)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SQLiteStore(path, synchronous="OFF")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def number(caller: Caller) -> int:
    return len(caller.method)


def principals(store: SQLiteStore) -> None:
    """A principal that is neither text nor bytes."""
    IdempotencyInterceptor(store, principal=number)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def undo_text(result: str) -> None:
    del result


def undo_row(db: Database, result: str) -> None:
    del db, result


def one() -> int:
    return 1


def of_row(db: Database) -> int:
    return db.execute("SELECT 1").rowcount


async def steps(operation: aio.Operation) -> None:
    """An undo that takes no such result, and a transaction's function outside of a transaction."""
    await operation.step("a", one, undo=undo_text)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await operation.step("b", of_row)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await operation.step(  # type: ignore[call-overload]
        "c",
        of_row,
        undo=undo_row,  # pyright: ignore[reportArgumentType]
        transaction=True,
    )


def names(refusal: Refusal) -> None:
    """Names that are not there, though modules make some of theirs on use; and what may be missing."""
    missing: object
    missing = grpc_idempotency.MongoStore  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    missing = aio.Policy  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    missing = refusal.retry_after + timedelta()  # type: ignore[operator]  # pyright: ignore[reportOptionalOperand]
    del missing
