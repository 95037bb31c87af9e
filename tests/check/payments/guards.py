"""Guards written by hand: none, naive ones, and one that is right in one process but for its faults."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any

import grpc

Behaviour = Callable[[Any], Awaitable[Any]]
"""A handler: takes a request, returns a reply, or raises :class:`Failed`."""

FAULTS = (
    "no-claim",
    "no-fingerprint",
    "errors-not-stored",
    "ttl-0",
    "shared-by-methods",
    "replies-cut",
    "released-while-running",
    "shared-by-callers",
    "final-while-running",
    "late-fingerprint",
    "few-kept",
    "keys-without-case",
    "keys-cut",
    "no-key-is-a-key",
    "trailers-of-calls",
)
STREAM_FAULTS = ("part-replayed", "first-message-compared")


_FEW = 4


class Failed(Exception):
    """The handler's own failure."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code


async def bare(_method: str, request: Any, _context: Any, behaviour: Behaviour) -> Any:
    """No guard."""
    return await behaviour(request)


class Dict:
    """What is written first: a dict from keys to replies, in which a reply is put when there is one."""

    def __init__(self) -> None:
        self._replies: dict[str, Any] = {}

    async def __call__(self, _method: str, request: Any, context: Any, behaviour: Behaviour) -> Any:
        key = dict(context.invocation_metadata()).get("idempotency-key")
        if not key:
            return await behaviour(request)
        if key not in self._replies:
            self._replies[key] = await behaviour(request)
        return self._replies[key]


@dataclass
class Entry:
    fingerprint: bytes
    run: "asyncio.Task[Any]"


class Guard:
    """A guard in memory. It knows the keys of the field ``request_id`` and, with ``header``, of metadata."""

    def __init__(self, faults: Collection[str] = (), *, header: bool = True) -> None:
        assert set(faults) <= set(FAULTS)
        self._faults, self._header = faults, header
        self._entries: dict[tuple[str, ...], Entry] = {}

    async def __call__(self, method: str, request: Any, context: Any, behaviour: Behaviour) -> Any:
        key = await self._key(request, context)
        if "trailers-of-calls" in self._faults:
            context.set_trailing_metadata((("served-at", str(time.time_ns())),))
        if key is None:
            return await behaviour(request)
        name = self._name(method, key, context)
        fingerprint = request.SerializeToString(deterministic=True)
        entry = self._entries.get(name)
        fresh = entry is None
        if entry is None or ("no-claim" in self._faults and not entry.run.done()):
            entry = Entry(fingerprint, asyncio.ensure_future(behaviour(request)))
            if "no-claim" in self._faults:
                return await self._unclaimed(name, entry)
            self._entries[name] = entry
            if "few-kept" in self._faults and len(self._entries) > _FEW:
                del self._entries[next(iter(self._entries))]
            entry.run.add_done_callback(lambda run: self._forget(name, run))
        elif "final-while-running" in self._faults and not entry.run.done():
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "it is running")
        elif entry.fingerprint != fingerprint and not self._overlooked(entry):
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the key was used with another request")
        try:
            reply = await asyncio.shield(entry.run)
        except asyncio.CancelledError:
            if "released-while-running" in self._faults:
                self._entries.pop(name, None)
            raise
        if "replies-cut" in self._faults and not fresh:
            cut = type(reply)()
            cut.CopyFrom(reply)
            del cut.notes[10:]
            return cut
        return reply

    def _overlooked(self, entry: Entry) -> bool:
        return "no-fingerprint" in self._faults or ("late-fingerprint" in self._faults and not entry.run.done())

    async def _unclaimed(self, name: tuple[str, ...], entry: Entry) -> Any:
        """Runs in the call itself, and stores the outcome if the call has not been cut short."""
        try:
            return await entry.run
        finally:
            if not entry.run.cancelled():
                self._entries.setdefault(name, entry)

    def _forget(self, name: tuple[str, ...], run: "asyncio.Task[Any]") -> None:
        failed = run.exception() is not None
        if "ttl-0" in self._faults or (failed and "errors-not-stored" in self._faults):
            self._entries.pop(name, None)

    def _name(self, method: str, key: str, context: Any) -> tuple[str, ...]:
        caller = dict(context.invocation_metadata()).get("caller", "")
        return (
            key.lower() if "keys-without-case" in self._faults else key,
            "" if "shared-by-methods" in self._faults else method,
            "" if "shared-by-callers" in self._faults else caller,
        )

    async def _key(self, request: Any, context: Any) -> str | None:
        metadata = context.invocation_metadata() if self._header else ()
        keys = [value for name, value in metadata if name == "idempotency-key"] or [*filter(None, [request.request_id])]
        if not keys:
            return "" if "no-key-is-a-key" in self._faults else None
        key = keys[0][:255] if "keys-cut" in self._faults else keys[0]
        if len(set(keys)) > 1 or not 0 < len(key) <= 255 or key != key.strip() or key.startswith('"'):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the key can't be used")
        return str(key)


class StreamGuard:
    """A guard of streams in memory, with one fault: it is wrong only where a stream has more than one message."""

    def __init__(self, fault: str) -> None:
        assert fault in STREAM_FAULTS
        self._fault = fault
        self._sent: dict[str, list[Any]] = {}
        self._runs: dict[str, tuple[Any, asyncio.Task[Any]]] = {}

    async def replies(self, request: Any, context: Any, behaviour: Callable[[Any], AsyncIterator[Any]]) -> Any:
        """Keeps what was sent. The fault ``part-replayed`` takes the part of a stream that was left for all of it."""
        key = dict(context.invocation_metadata()).get("idempotency-key")
        if self._fault != "part-replayed" or not key:
            async for message in behaviour(request):
                yield message
            return
        kept = key in self._sent
        for message in self._sent.setdefault(key, []):
            yield message
        if not kept:
            async for message in behaviour(request):
                self._sent[key].append(message)
                yield message

    async def requests(self, requests: AsyncIterator[Any], context: Any, behaviour: Behaviour) -> Any:
        """Runs a whole stream once. The fault ``first-message-compared`` looks at no message behind the first."""
        metadata = dict(context.invocation_metadata())
        messages = [one async for one in requests]
        key = metadata.get("idempotency-key")
        if self._fault != "first-message-compared" or not key:
            return await behaviour(messages)
        if len(messages) != int(metadata["idempotency-message-count"]):
            await context.abort(grpc.StatusCode.CANCELLED, "a message is missing")
        if key not in self._runs:
            self._runs[key] = messages[0], asyncio.ensure_future(behaviour(messages))
        first, run = self._runs[key]
        if first != messages[0]:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the key was used with another request")
        return await asyncio.shield(run)
