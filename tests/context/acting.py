"""Handlers that act out a scene on their context, on a bare server and on one with the interceptor.

A scene is a list of acts, calls of the context's methods, and an end. Its handler is written once and runs as each kind
of handler; what each act answered or raised is put down, and so is what the client heard.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

import grpc_idempotency
from grpc_idempotency import aio

KEYED = ("idempotency-key", "idempotency-message-count")
OURS = ("idempotency-status", "idempotency-created")
KINDS = ("async", "thread", "sync")
GETTERS = {
    "async": ("code", "details", "trailing_metadata", "done", "cancelled"),
    "thread": (),
    "sync": ("code", "details", "trailing_metadata", "is_active"),
}
"""What is asked after each act."""
LACKING = {
    "async": ("add_callback", "is_active", "cancel"),
    "thread": ("code", "details", "trailing_metadata", "abort_with_status", "is_active", "cancel", "add_done_callback"),
    "sync": ("add_done_callback", "done", "cancelled"),
}
"""What gRPC's own context of this kind does not have; a scene is acted without it."""


@dataclass(frozen=True)
class Act:
    """One call of a method of the context; ``say`` is a message of the stream, where there is one."""

    name: str
    args: tuple[Any, ...] = ()

    def arguments(self) -> Iterator[Any]:
        return (argument() if callable(argument) else argument for argument in self.args)


def act(name: str, *args: Any) -> Act:
    """Arguments that can be called are made anew for each performance."""
    return Act(name, args)


@dataclass(frozen=True)
class Scene:
    acts: tuple[Act, ...] = ()
    end: str = "return"
    """``return``, ``raise``, or ``let``: what an act raised is not caught."""

    def of(self, kind: str) -> tuple[Act, ...]:
        return tuple(act for act in self.acts if act.name not in LACKING[kind])


@dataclass
class Performance:
    """What its handler saw."""

    scene: Scene
    kind: str
    seen: list[Any] = field(default_factory=list)
    details: str = ""
    """The status message that was set last."""

    async def awaited(self, act: Act, context: Any) -> None:
        try:
            result = getattr(context, act.name)(*act.arguments())
            self.put(act, await result if asyncio.iscoroutine(result) or hasattr(result, "__await__") else result)
        except Exception as error:
            if self.scene.end == "let":
                raise
            self.put(act, error)
        self.look(context)

    def called(self, act: Act, context: Any) -> None:
        try:
            self.put(act, getattr(context, act.name)(*act.arguments()))
        except Exception as error:
            if self.scene.end == "let":
                raise
            self.put(act, error)
        self.look(context)

    def put(self, act: Act, result: object) -> None:
        self.seen.append((act.name, shown(result)))
        aborted = isinstance(result, grpc.aio.AbortError) or (type(result) is Exception and not result.args)
        if (act.name == "set_details" and result is None) or (act.name == "abort" and aborted):
            given = act.args[-1] if act.name == "set_details" else act.args[1] if len(act.args) > 1 else None
            self.details = given if isinstance(given, str) else given.decode() if given else self.details

    def look(self, context: Any) -> None:
        self.seen.append([shown(getattr(context, name)()) for name in GETTERS[self.kind]])

    def end(self) -> None:
        if self.scene.end == "raise":
            raise LookupError("password=hunter2")


def shown(result: object) -> object:
    """A result so that it can be compared: with its type, an exception with its text where gRPC made it."""
    if isinstance(result, BaseException):
        own = type(result) in (TypeError, ValueError, AttributeError, UnicodeEncodeError)
        return type(result).__name__, "" if own else str(result)
    if isinstance(result, tuple) and result and hasattr(result[0], "key"):
        entries = [(entry.key, entry.value) for entry in result if entry.key not in (*KEYED, "user-agent")]
        return type(result).__name__, entries
    if isinstance(result, float):
        return "float", result > 1000
    return type(result).__name__, repr(result)


class Stage:
    """The scenes that are on, and handlers that look up the one they are to act."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.on: dict[str, Performance] = {}
        codec: Any = (None, lambda message: b"" if message is None else message)
        one, many, gathered, written = self._handlers(kind)
        self.handlers: dict[str, Any] = {
            "one": grpc.unary_unary_rpc_method_handler(one, *codec),
            "many": grpc.unary_stream_rpc_method_handler(many, *codec),
            "gathered": grpc.stream_unary_rpc_method_handler(gathered, *codec),
        }
        if written is not None:
            self.handlers["written"] = grpc.unary_stream_rpc_method_handler(written, *codec)

    def _handlers(self, kind: str) -> tuple[Any, ...]:
        async def one(request: bytes, context: Any) -> bytes:
            performance = self.on[request.decode()]
            for act in performance.scene.of(kind):
                if act.name != "say":
                    await performance.awaited(act, context)
            performance.end()
            return b"reply"

        async def gathered(requests: Any, context: Any) -> bytes:
            return await one(await anext(aiter(requests)), context)

        async def many(request: bytes, context: Any) -> AsyncIterator[bytes]:
            performance = self.on[request.decode()]
            for act in performance.scene.of(kind):
                if act.name == "say":
                    yield act.args[0]
                    performance.look(context)
                else:
                    await performance.awaited(act, context)
            performance.end()

        async def written(request: bytes, context: Any) -> None:
            performance = self.on[request.decode()]
            for act in performance.scene.of(kind):
                await performance.awaited(replace(act, name="write") if act.name == "say" else act, context)
            performance.end()

        def one_blocking(request: bytes, context: Any) -> bytes:
            performance = self.on[request.decode()]
            for act in performance.scene.of(kind):
                if act.name != "say":
                    performance.called(act, context)
            performance.end()
            return b"reply"

        def gathered_blocking(requests: Any, context: Any) -> bytes:
            return one_blocking(next(iter(requests)), context)

        def many_blocking(request: bytes, context: Any) -> Iterator[bytes]:
            performance = self.on[request.decode()]
            for act in performance.scene.of(kind):
                if act.name == "say":
                    yield act.args[0]
                    performance.look(context)
                else:
                    performance.called(act, context)
            performance.end()

        return (
            (one, many, gathered, written)
            if kind == "async"
            else (one_blocking, many_blocking, gathered_blocking, None)
        )

    @property
    def handler(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler("test.Stage", self.handlers)


@dataclass(frozen=True)
class Heard:
    """What a client heard."""

    status: grpc.StatusCode
    details: str
    messages: tuple[bytes, ...]
    trailers: tuple[Any, ...]
    initial: tuple[Any, ...] = ()
    mark: Any = None


class Theatre:
    """Two servers of one kind, a bare one and one with the interceptor, with the same handlers."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._stage = Stage(kind)
        self._numbers = itertools.count()
        self._bare: grpc.aio.Channel
        self._ours: grpc.aio.Channel

    @property
    def shapes(self) -> tuple[str, ...]:
        return tuple(self._stage.handlers)

    async def open(self, stack: AsyncExitStack, folder: Path) -> None:
        self._bare = await self._serve(stack, None)
        self._ours = await self._serve(stack, folder / f"{self.kind}.db")

    async def _serve(self, stack: AsyncExitStack, path: Path | None) -> grpc.aio.Channel:
        pool = stack.enter_context(ThreadPoolExecutor(8))
        interceptor: Any = None
        server: Any
        if self.kind == "sync":
            if path is not None:
                interceptor = grpc_idempotency.IdempotencyInterceptor(grpc_idempotency.SQLiteStore(path))
            server = grpc.server(pool, interceptors=[interceptor] if interceptor else None)
        else:
            if path is not None:
                interceptor = aio.IdempotencyInterceptor(aio.SQLiteStore(path))
            server = grpc.aio.server(pool, interceptors=[interceptor] if interceptor else None)
        if interceptor:
            interceptor.attach(server)
        server.add_generic_rpc_handlers((self._stage.handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        if self.kind == "sync":
            server.start()
            stack.push_async_callback(lambda: asyncio.to_thread(lambda: server.stop(None).wait()))
        else:
            await server.start()
            stack.push_async_callback(server.stop, None)
        return await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))

    async def bare(self, shape: str, scene: Scene) -> tuple[Performance, Heard]:
        return await self._play(self._bare, shape, scene, ())

    async def unkeyed(self, shape: str, scene: Scene) -> tuple[Performance, Heard]:
        return await self._play(self._ours, shape, scene, ())

    async def keyed(self, shape: str, scene: Scene) -> tuple[Performance, Heard, Heard]:
        """A keyed call and its retry."""
        name = f"scene {next(self._numbers)}"
        metadata = tuple(zip(KEYED, (name, "1"), strict=True))
        performance, first = await self._play(self._ours, shape, scene, metadata, name)
        _, second = await self._play(self._ours, shape, scene, metadata, name)
        return performance, first, second

    async def _play(
        self, channel: grpc.aio.Channel, shape: str, scene: Scene, metadata: Any, name: str = ""
    ) -> tuple[Performance, Heard]:
        name = name or f"scene {next(self._numbers)}"
        self._stage.on[name] = performance = Performance(scene, self.kind)
        make: Callable[..., Any] = {
            "one": channel.unary_unary, "gathered": channel.stream_unary,
        }.get(shape, channel.unary_stream)  # fmt: skip
        request: Any = iter([name.encode()]) if shape == "gathered" else name.encode()
        call = make(f"/test.Stage/{shape}")(
            request, metadata=(*metadata, ("who", "me"), ("who-bin", b"\0")), timeout=20
        )
        messages: list[bytes] = []
        initial = await call.initial_metadata()
        try:
            if shape in ("one", "gathered"):
                message = await call
                messages += () if message is None else (message,)
            else:
                messages.extend([message async for message in call])
        except grpc.aio.AioRpcError:
            pass
        trailers = tuple(await call.trailing_metadata() or ())
        marks = dict(entry for entry in trailers if entry[0] in OURS)
        heard = Heard(
            await call.code(),
            await call.details() or "",
            tuple(messages),
            tuple(tuple(entry) for entry in trailers if entry[0] not in OURS or not metadata),
            # The client of a stream without messages may lose what was sent ahead of it.
            tuple(tuple(entry) for entry in initial or ()) if messages or shape in ("one", "gathered") else (),
            marks.get(OURS[0]) if metadata else None,
        )
        return performance, heard
