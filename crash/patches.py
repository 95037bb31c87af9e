"""Faults outside of the store: each replaces a part of the library or of the shop."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

from grpc_idempotency._operation.aio import AsyncRunning
from grpc_idempotency._operation.steps import Steps
from grpc_idempotency._protocol import rules as _protocol
from grpc_idempotency._server import execution as _execution
from grpc_idempotency._server.aio.executions import Execution
from grpc_idempotency._server.aio.run import AioRun
from grpc_idempotency._server.replays import Replays
from shop.database import Database
from shop.money import Amount
from shop.users import rows, wallet
from shop.users.v1.users_pb2 import Reservation


def reuse_fences() -> None:
    """Makes fences by counting; each process starts at the same number."""
    execution: Any = _execution
    counted = itertools.count(1)
    execution.new_fence = lambda: next(counted).to_bytes(16, "big")


def keep_no_outcomes() -> None:
    """Keeps no outcomes in memory, so that every replay reads its record."""
    replays: Any = Replays
    replays.keep = lambda *_: None


def lose_undos() -> None:
    """Undoes nothing, and reports it as undone."""

    async def unwind(_: AsyncRunning) -> str | None:
        return None

    operation: Any = AsyncRunning
    operation.unwind = unwind


def compare_no_fingerprints() -> None:
    """Accepts any request with the same key as the same request."""
    protocol: Any = _protocol
    protocol.same_request = lambda _one, _other: True


def capture_twice() -> None:
    """Subtracts the amount of a capture from the balance a second time."""
    capture = wallet.capture

    def twice(db: Database, reservation_id: str) -> Reservation:
        reservation = capture(db, reservation_id)
        balance = Amount.of(wallet.existing(db, reservation.user_id).balance)
        less = balance.plus(-Amount.of(reservation.amount).nanos)
        rows.update_balance(db, reservation.user_id, less if less.fits else balance.plus(-1))
        return reservation

    users: Any = wallet
    users.capture = twice


def forget_cut_steps() -> None:
    """Hides a step that is cancelled while the store keeps it, so that its run does not undo it."""
    run = AsyncRunning._run

    async def forgetful(self: AsyncRunning, name: str, fn: Callable[..., Any], transaction: bool) -> Any:
        try:
            return await run(self, name, fn, transaction)
        except asyncio.CancelledError:
            self.steps._finished.pop(name, None)
            raise

    operation: Any = AsyncRunning
    operation._run = forgetful
    steps: Any = Steps
    steps.learn = lambda *_: []


def leave_threads() -> None:
    """Treats a ``def`` handler whose task is cancelled as stopped, although its thread continues."""
    on_thread = AioRun.on_thread

    async def left(self: AioRun, call: Callable[[], Any]) -> Any:
        return await asyncio.shield(on_thread(self, call))

    run: Any = AioRun
    run.on_thread = left
    execution: Any = Execution
    execution._waits_for_thread = lambda _: False
