"""Answers the requests of a store: each request is a plan, whose commands go to the lanes."""

import logging
import threading
from collections.abc import Sequence
from typing import Any

from grpc_idempotency.errors import StoreError, StoreUnavailable, Unstorable
from grpc_idempotency.stores._calls.batches import Batches
from grpc_idempotency.stores._calls.requests import (
    CountRequest,
    FindRequest,
    ListRequest,
    MethodsRequest,
    PendingRequest,
    Request,
    SweepRequest,
    deliver,
)
from grpc_idempotency.stores._redis.commands import Command, Plan
from grpc_idempotency.stores._redis.keys import Keys
from grpc_idempotency.stores._redis.lane import Confirmation, Lane
from grpc_idempotency.stores._redis.nodes import Nodes
from grpc_idempotency.stores._redis.plans import Plans

_LONG = (CountRequest, FindRequest, ListRequest, MethodsRequest, PendingRequest, SweepRequest)
"""Requests that may take long. They have a lane of their own, so that no renewal waits behind them."""
_log = logging.getLogger("grpc_idempotency.stores.redis")


class Engine:
    """Answers requests until it is closed.

    Args:
        nodes: The servers. The engine closes them.
        keys: The names of the store's keys.
        plans: Makes the plans of requests.
        confirmation: Which replicas have to confirm a write.
        batches: Told of each pipeline that was answered.
    """

    def __init__(self, nodes: Nodes, keys: Keys, plans: Plans, confirmation: Confirmation, batches: Batches) -> None:
        self.failure: StoreError | None = None
        self.nodes = nodes
        self._plans = plans
        self._short = Lane(nodes, keys, confirmation, self._deliver, batches)
        self._long = Lane(nodes, keys, confirmation, self._deliver, batches)
        self._lock = threading.Lock()
        self._under_way = 1  # one more than the requests, until the engine is closed
        self._last: Request[Any] | None = None

    def submit(self, request: Request[Any]) -> None:
        """See :class:`grpc_idempotency.stores._calls.requests.Engine`."""
        with self._lock:
            failure = self.failure
            if failure is None:
                self._under_way += 1
        if failure is not None:
            request.error = failure
            deliver([request])
            return
        run = _Run(request, self._plans.plan(request), self._long if isinstance(request, _LONG) else self._short)
        if run.advance():
            self._deliver([request])

    def close(self, last: Request[Any] | None = None) -> None:
        """Refuses further requests, and ends once those that have begun are answered.

        Args:
            last: A request that is answered then.
        """
        with self._lock:
            if self.failure is not None:
                return
            self.failure = StoreUnavailable("the store was closed")
            self._last = last
        self._deliver(())

    def abandon(self) -> None:
        """Ends the writers, once nobody has the store any more. The garbage collector may call it in any thread."""
        self._short.stop()
        self._long.stop()

    # -- within

    def _deliver(self, requests: Sequence[Request[Any]]) -> None:
        deliver(requests)
        with self._lock:
            self._under_way -= len(requests) or 1  # nothing is delivered once only, by close
            ended = self._under_way == 0
        if not ended:
            return
        self._short.stop()
        self._long.stop()
        self.nodes.close()
        if self._last is not None:
            deliver([self._last])


class _Run:
    """A request whose plan is being carried out."""

    __slots__ = ("_commands", "_lane", "_left", "_lock", "_plan", "_request")

    def __init__(self, request: Request[Any], plan: Plan[Any], lane: Lane) -> None:
        self._request = request
        self._plan = plan
        self._lane = lane
        self._lock = threading.Lock()
        self._commands: Sequence[Command] = ()
        self._left = 0

    def advance(self, replies: Sequence[Any] | None = None) -> bool:
        """Passes replies to the plan, and its next commands to the lane. Returns ``True`` if the plan has ended."""
        try:
            commands = self._plan.send(replies)
            while not commands:
                commands = self._plan.send(())
        except StopIteration as done:
            self._request.value = done.value
            return True
        except Exception as exc:
            self._request.error = self._failure(exc)
            self._request.error.__cause__ = exc
            return True
        self._commands, self._left = commands, len(commands)
        for command in commands:
            command.answer = self._answered
        ended = False
        for command in commands:
            try:
                self._lane.send(command)
            except RuntimeError as exc:  # no thread can be started for a writer
                command.error = StoreUnavailable(f"the store has no thread for its server: {exc}")
                ended = self._answered() is not None
        return ended

    def _answered(self) -> Request[Any] | None:
        """Goes on if this was the last command that is waited for. Returns the request if it is answered."""
        with self._lock:
            self._left -= 1
            if self._left:
                return None
        errors = [command.error for command in self._commands if command.error is not None]
        if not errors:
            return self._request if self.advance([command.reply for command in self._commands]) else None
        self._request.error = errors[0]
        self._plan.close()
        return self._request

    def _failure(self, error: Exception) -> StoreError:
        if not self._commands:
            return Unstorable(f"the store can't keep what it was given: {type(error).__name__}")
        _log.error("a reply of Redis was not understood", exc_info=error)
        return StoreUnavailable(f"a reply of Redis was not understood: {type(error).__name__}", landed=None)
