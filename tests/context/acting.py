"""Handlers that act out a scene on their context, on a bare server and on one with the interceptor.

A scene is a list of acts, calls of the context's methods, and an end. Its handler is written once and runs as each kind
of handler; what each act answered or raised is put down, and so is what the client heard.
"""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

import grpc_idempotency
from grpc_idempotency import aio

from ..harness.protos import declare
from ..harness.replies import COUNT, KEY, Reply
from ..harness.servers import Server, interceptor_of

KEYED = (KEY, COUNT)
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


CUES = "test.cues.Service"

Cue = declare("test.cues", ["request_id", "scene"], dict.fromkeys(("one", "many", "gathered", "written"), False))


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
    details: str | None = None
    """The status message that was set last."""
    still: threading.Event = field(default_factory=threading.Event)
    """Set while it neither acts nor is about to: an abort is heard before its handler has gone on."""

    def __post_init__(self) -> None:
        self.still.set()

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Its handler runs."""
        self.still.clear()
        try:
            yield
        finally:
            self.still.set()

    @contextmanager
    def saying(self) -> Iterator[None]:
        """Its handler has sent a message, and may never be asked for more."""
        self.still.set()
        yield
        self.still.clear()

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
        if act.name == "set_details" and result is None:
            self.details = _text(act.args[0])
        elif act.name == "abort" and aborted and act.args[1:]:
            self.details = _text(act.args[1]) or self.details

    def look(self, context: Any) -> None:
        self.seen.append([shown(getattr(context, name)()) for name in GETTERS[self.kind]])

    def end(self) -> None:
        if self.scene.end == "raise":
            raise LookupError("password=hunter2")


def _text(details: str | bytes | None) -> str:
    return details.decode() if isinstance(details, bytes) else details or ""


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
        one, many, gathered, written = self._handlers(kind)
        self._behaviours: dict[str, tuple[Any, Any]] = {
            "one": (grpc.unary_unary_rpc_method_handler, one),
            "many": (grpc.unary_stream_rpc_method_handler, many),
            "gathered": (grpc.stream_unary_rpc_method_handler, gathered),
        }
        if written is not None:
            self._behaviours["written"] = (grpc.unary_stream_rpc_method_handler, written)
        self.shapes = tuple(self._behaviours)

    def _cued(self, request: Any) -> Performance:
        return self.on[request.decode() if isinstance(request, bytes) else request.scene]

    def _handlers(self, kind: str) -> tuple[Any, ...]:
        async def one(request: Any, context: Any) -> bytes:
            performance = self._cued(request)
            with performance.acting():
                for act in performance.scene.of(kind):
                    if act.name != "say":
                        await performance.awaited(act, context)
                performance.end()
            return b"reply"

        async def gathered(requests: Any, context: Any) -> bytes:
            return await one(await anext(aiter(requests)), context)

        async def many(request: Any, context: Any) -> AsyncIterator[bytes]:
            performance = self._cued(request)
            with performance.acting():
                for act in performance.scene.of(kind):
                    if act.name == "say":
                        with performance.saying():
                            yield act.args[0]
                        performance.look(context)
                    else:
                        await performance.awaited(act, context)
                performance.end()

        async def written(request: Any, context: Any) -> None:
            performance = self._cued(request)
            with performance.acting():
                for act in performance.scene.of(kind):
                    await performance.awaited(replace(act, name="write") if act.name == "say" else act, context)
                performance.end()

        def one_blocking(request: Any, context: Any) -> bytes:
            performance = self._cued(request)
            with performance.acting():
                for act in performance.scene.of(kind):
                    if act.name != "say":
                        performance.called(act, context)
                performance.end()
            return b"reply"

        def gathered_blocking(requests: Any, context: Any) -> bytes:
            return one_blocking(next(iter(requests)), context)

        def many_blocking(request: Any, context: Any) -> Iterator[bytes]:
            performance = self._cued(request)
            with performance.acting():
                for act in performance.scene.of(kind):
                    if act.name == "say":
                        with performance.saying():
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

    def handlers(self) -> Iterator[grpc.GenericRpcHandler]:
        """The same methods twice: of bytes, and of a message that may have its key in it."""
        for service, deserialize in (("test.Stage", None), (CUES, Cue.FromString)):
            methods: dict[str, Any] = {
                name: make(behaviour, request_deserializer=deserialize)
                for name, (make, behaviour) in self._behaviours.items()
            }
            yield grpc.method_handlers_generic_handler(service, methods)


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
        return self._stage.shapes

    async def open(self, stack: AsyncExitStack, folder: Path) -> None:
        self._bare = await self._serve(stack, None)
        self._ours = await self._serve(stack, folder / f"{self.kind}.db")

    async def _serve(self, stack: AsyncExitStack, path: Path | None) -> grpc.aio.Channel:
        interceptors: list[Any] = []
        if path is not None:
            store = (grpc_idempotency.SQLiteStore if self.kind == "sync" else aio.SQLiteStore)(path)
            interceptors.append(interceptor_of(self.kind, store))
        server = Server(self.kind, interceptors)
        for interceptor in interceptors:
            interceptor.attach(server.real)
        server.add(*self._stage.handlers())
        target = await server.start()
        stack.push_async_callback(server.stop)
        return await stack.enter_async_context(grpc.aio.insecure_channel(target))

    async def bare(self, shape: str, scene: Scene) -> tuple[Performance, Reply]:
        return await self._play(self._bare, shape, scene, ())

    async def unkeyed(self, shape: str, scene: Scene) -> tuple[Performance, Reply]:
        return await self._play(self._ours, shape, scene, ())

    async def nameless(self, shape: str, scene: Scene) -> tuple[Performance, Reply]:
        """An un-keyed call to a method whose request could have had the key."""
        return await self._play(self._ours, shape, scene, (), service=CUES)

    async def keyed(self, shape: str, scene: Scene) -> tuple[Performance, Reply, Reply]:
        """A keyed call and its retry."""
        name = f"scene {next(self._numbers)}"
        metadata = tuple(zip(KEYED, (name, "1"), strict=True))
        performance, first = await self._play(self._ours, shape, scene, metadata, name)
        _, second = await self._play(self._ours, shape, scene, metadata, name)
        return performance, first, second

    async def _play(
        self,
        channel: grpc.aio.Channel,
        shape: str,
        scene: Scene,
        metadata: Any,
        name: str = "",
        service: str = "test.Stage",
    ) -> tuple[Performance, Reply]:
        name = name or f"scene {next(self._numbers)}"
        self._stage.on[name] = performance = Performance(scene, self.kind)
        make: Callable[..., Any] = {
            "one": channel.unary_unary, "gathered": channel.stream_unary,
        }.get(shape, channel.unary_stream)  # fmt: skip
        cue = name.encode() if service != CUES else Cue(scene=name).SerializeToString()
        request: Any = iter([cue]) if shape == "gathered" else cue
        call = make(f"/{service}/{shape}")(request, metadata=(*metadata, ("who", "me"), ("who-bin", b"\0")), timeout=20)
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
        assert await asyncio.to_thread(performance.still.wait, 20)
        reply = Reply(
            status=await call.code(),
            details=await call.details() or "",
            messages=tuple(messages),
            trailers=tuple((name, value) for name, value in trailers),
            # The client of a stream without messages may lose what was sent ahead of it.
            initial=tuple((name, value) for name, value in initial or ())
            if messages or shape in ("one", "gathered")
            else (),
        )
        return performance, reply
