"""Real servers on ``127.0.0.1:0`` with the interceptor in them, of either kind behind the same awaited calls."""

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from grpc_idempotency import Effects, IdempotencyInterceptor, MemoryStore, Policy, Record, SQLiteStore, aio

from .clients import OWN_CONNECTION, Client, Metadata, Request, blocking_call
from .handlers import SERVICE, Face, Handler, Method, generic_handler
from .replies import Reply
from .stores import FlakyStore, for_threads


async def answered(result: Any) -> Any:
    """Returns what a call of either kind of store, server or interceptor answers."""
    return await result if inspect.isawaitable(result) else result


def interceptor_of(kind: str, store: Any, **options: Any) -> Any:
    """Makes the interceptor for this kind of server."""
    return (IdempotencyInterceptor if kind == "sync" else aio.IdempotencyInterceptor)(store, **options)


def claims(effects: Effects) -> dict[str, Any]:
    """The settings of a policy under which an operation has a record while its handler runs, whatever its effects."""
    return {"effects": effects, "recover": True if effects is Effects.TRANSACTIONAL else None}


class Server:
    """A server of either kind, before and after its start; its blocking calls are awaited."""

    def __init__(
        self, kind: str, interceptors: Sequence[Any] = (), *, workers: int = 8, grpc_options: Sequence[Any] = ()
    ) -> None:
        """Makes the server. ``workers`` is the size of a ``grpc.server``'s thread pool."""
        self.kind = kind
        self.real: Any
        options = [("grpc.so_reuseport", 0), *grpc_options]
        if kind == "sync":
            self._pool = ThreadPoolExecutor(workers)
            self.real = grpc.server(self._pool, interceptors=[*interceptors], options=options)
        else:
            self.real = grpc.aio.server(interceptors=[*interceptors], options=options)
        self.target = ""

    def add(self, *handlers: Any) -> None:
        self.real.add_generic_rpc_handlers(handlers)

    async def start(self, credentials: grpc.ServerCredentials | None = None, *, port: int = 0) -> str:
        """Starts on this port, or a free one; returns the address."""
        address = f"127.0.0.1:{port}"
        if credentials is None:
            port = self.real.add_insecure_port(address)
        else:
            port = self.real.add_secure_port(address, credentials)
        await answered(self.real.start())
        self.target = f"127.0.0.1:{port}"
        return self.target

    async def stop(self, grace: float | None = None) -> None:
        if self.kind == "sync":
            await asyncio.to_thread(self.real.stop(grace).wait)
            self._pool.shutdown(wait=False)
        else:
            await self.real.stop(grace)

    async def wait_for_termination(self) -> None:
        if self.kind == "sync":
            await asyncio.to_thread(self.real.wait_for_termination)
        else:
            await self.real.wait_for_termination()


class Service(Client):
    """A server in this process, and a client of it."""

    def __init__(
        self,
        server: Server,
        channel: grpc.aio.Channel,
        methods: Any,
        service: str,
        *,
        interceptor: Any,
        attached: bool,
        store: Any,
    ) -> None:
        super().__init__(channel, methods, service)
        self._attached = attached
        self.server = server
        self.target = server.target
        self.interceptor = interceptor
        self.store = store

    async def stop(self) -> None:
        """Stops the server, and closes an interceptor that is not attached to it."""
        await self.server.stop()
        if not self._attached:
            await self.close_interceptor()

    async def close_interceptor(self) -> None:
        if self.server.kind == "sync":
            await asyncio.to_thread(self.interceptor.close)
        else:
            await self.interceptor.close()

    async def blocking(self, method: str, *requests: Request, metadata: Metadata = ()) -> Reply:
        """Makes a call by gRPC's client for threads."""
        return await blocking_call(self.target, f"/{self.service}/{method}", *requests, metadata=metadata)

    # What stands in the store

    async def records(self) -> Sequence[Record]:
        records: Sequence[Record] = await answered(self.store.list())
        return records

    async def the_record(self) -> Record:
        """Returns the only record."""
        (record,) = await self.records()
        return record

    async def steps(self) -> list[str]:
        """Returns the names of the steps of the only operation."""
        return [step.name for step in await answered(self.store.steps((await self.the_record()).name))]

    async def has_state(self, *states: Any) -> bool:
        """True if the records have these states."""
        return [record.state for record in await self.records()] == list(states)

    # What no event announces: conditions for until()

    def _executions(self) -> list[Any]:
        return list(self.interceptor._executions._executions.values())

    async def is_idle(self) -> bool:
        """True if no execution is under way."""
        return not self._executions()

    async def is_followed(self, count: int) -> bool:
        """True if so many calls follow the only execution."""
        return [execution.followers for execution in self._executions()] == [count]

    async def has_detached(self, count: int = 1) -> bool:
        """True if so many executions have no caller left."""
        return len(self.interceptor._executions.detached) == count


class Servers:
    """Starts servers of one kind on one file, and stops them at the end of the test."""

    def __init__(self, kind: str, folder: Path, stack: AsyncExitStack, *, flaky: bool = False, **defaults: Any) -> None:
        """``defaults`` are options for each server, as in :meth:`__call__`; ``flaky``: its store is a FlakyStore."""
        self.kind = kind
        self.path = folder / "records.db"
        self._stack = stack
        self._flaky = flaky
        self._defaults = defaults

    def store(self, name: str = "sqlite") -> Any:
        """Makes a store of the server's kind."""
        if name == "memory":
            return MemoryStore() if self.kind == "sync" else aio.MemoryStore()
        return SQLiteStore(self.path) if self.kind == "sync" else aio.SQLiteStore(self.path)

    async def __call__(self, methods: Mapping[str, Handler | Method], **options: Any) -> Service:
        """Serves methods behind the interceptor; the options are those of :meth:`_serve` and of the interceptor."""
        return await self._serve(methods, **(self._defaults | options))

    async def _serve(
        self,
        methods: Mapping[str, Handler | Method],
        *,
        policies: Mapping[str, Policy] | None = None,
        store: Any = None,
        attach: bool = True,
        outside: Sequence[Any] = (),
        inside: Sequence[Any] = (),
        add: Callable[[Any], object] = lambda _server: None,
        credentials: grpc.ServerCredentials | None = None,
        service: str = SERVICE,
        grpc_options: Sequence[Any] = (),
        workers: int = 8,
        max_waiters: int | None = None,
        drain_limit: timedelta = timedelta(seconds=5),
        **options: Any,
    ) -> Service:
        """Serves the methods.

        Args:
            methods: Handlers by their methods' short names.
            policies: Policies by the methods' short names, or by full names and globs.
            store: A store of the server's kind, or a :class:`FlakyStore`, which has a twin for threads. By default a
                new one on the test's file.
            attach: False: the interceptor is closed by the test's end, not by the server's stop.
            outside: Interceptors around the library's.
            inside: Interceptors that the library's is around.
            add: Adds more services to the real server.
            credentials: Of the server.
            service: The service's full name.
            grpc_options: Of the server and the channel.
            workers: Of a ``grpc.server``'s thread pool.
            max_waiters: On a ``grpc.server``, as the interceptor takes it.
            drain_limit: As the interceptor takes it.
            options: More options of the interceptor.
        """
        store = store or (FlakyStore(self.path) if self._flaky else self.store())
        if isinstance(store, FlakyStore) and self.kind == "sync":
            self._stack.push_async_callback(store.close)  # the test reads the records through it
        if self.kind == "sync" and max_waiters is not None:
            options["max_waiters"] = max_waiters
        interceptor = interceptor_of(
            self.kind,
            for_threads(store) if self.kind == "sync" else store,
            methods={
                name if name.startswith("/") else f"/{service}/{name}": policy
                for name, policy in (policies or {}).items()
            },
            drain_limit=drain_limit,
            **options,
        )
        if self.kind == "sync":
            outside, inside = [*map(on_threads, outside)], [*map(on_threads, inside)]
        server = Server(self.kind, [*outside, interceptor, *inside], workers=workers, grpc_options=grpc_options)
        if attach:
            interceptor.attach(server.real)
        server.add(generic_handler(self.kind, methods, service))
        add(server.real)
        target = await server.start(credentials)
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(target, grpc_options))
        served = Service(server, channel, methods, service, interceptor=interceptor, attached=attach, store=store)
        self._stack.push_async_callback(served.stop)
        return served

    async def client(
        self, server: "Service | str", *, methods: Any = None, service: str | None = None, options: Any = OWN_CONNECTION
    ) -> Client:
        """Makes another client of a server, or of the one at this address, on a connection of its own."""
        if isinstance(server, Service):
            target, methods, service = server.target, methods or server.methods, service or server.service
        else:
            target = server
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(target, options=options))
        return Client(channel, methods, service or SERVICE)


def on_threads(interceptor: Any) -> grpc.ServerInterceptor:
    """Returns a test's interceptor for a ``grpc.server``."""
    return _OnThreads(interceptor) if isinstance(interceptor, grpc.aio.ServerInterceptor) else interceptor


class _OnThreads(grpc.ServerInterceptor):
    """An interceptor of ``grpc.aio`` on a ``grpc.server``: for unary methods, if it awaits only what is inside."""

    def __init__(self, interceptor: grpc.aio.ServerInterceptor) -> None:
        self._interceptor = interceptor

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        async def inner(details: Any) -> Any:
            return _with(continuation(details), _awaited)

        intercept: Any = self._interceptor.intercept_service
        return _with(_at_once(intercept(inner, handler_call_details)), _blocking)


def _with(handler: Any, change: Callable[[Any], Any]) -> Any:
    if handler is None or handler.unary_unary is None:
        return handler
    return grpc.unary_unary_rpc_method_handler(
        change(handler.unary_unary), handler.request_deserializer, handler.response_serializer
    )


def _awaited(behaviour: Any) -> Any:
    async def awaited(request: Any, context: Any) -> Any:
        return behaviour(request, getattr(context, "live", context))

    return awaited


def _blocking(behaviour: Any) -> Any:
    def blocking(request: Any, context: Any) -> Any:
        reply = behaviour(request, Face(context))
        return _at_once(reply) if asyncio.iscoroutine(reply) else reply

    return blocking


def _at_once(call: Any) -> Any:
    """Returns the result of a coroutine that never waits."""
    try:
        call.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it has waited")
