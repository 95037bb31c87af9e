"""Interceptors that others wrote, and what each has seen."""

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc_interceptor
from opentelemetry.instrumentation.grpc import aio_server_interceptor, server_interceptor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from py_grpc_prometheus.prometheus_server_interceptor import PromServerInterceptor

SERVED_BY = {
    "opentelemetry": ("async", "sync"),
    "grpc-interceptor": ("async", "sync"),
    "prometheus": ("sync",),
}
"""The kinds of handlers that each package can wrap: on an aio server none of them knows ``def`` handlers."""


@dataclass
class Beside:
    """An interceptor, and what it can tell of the calls that came by."""

    interceptor: Any
    codes: Callable[[], list[str]]
    """The names of the status codes of the calls that it has recorded, in their order."""
    seen: list[type] = field(default_factory=list)
    """The types of requests and responses that it has seen, where it shows them."""
    spans: Callable[[], list[int]] = list
    """The spans of the calls that it has recorded, where it makes such."""


def make(package: str, kind: str) -> Beside:
    return {"opentelemetry": _opentelemetry, "grpc-interceptor": _grpc_interceptor, "prometheus": _prometheus}[package](
        kind
    )


_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


def _opentelemetry(kind: str) -> Beside:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    build: Any = server_interceptor if kind == "sync" else aio_server_interceptor
    interceptor = build(tracer_provider=provider)

    def codes() -> list[str]:
        spans = exporter.get_finished_spans()
        return [_NAMES[int(str((span.attributes or {})["rpc.grpc.status_code"]))] for span in spans]

    def spans() -> list[int]:
        return [span.context.span_id for span in exporter.get_finished_spans() if span.context is not None]

    return Beside(interceptor, codes, spans=spans)


def _prometheus(_kind: str) -> Beside:
    registry = CollectorRegistry()

    def codes() -> list[str]:
        counted: list[str] = []
        for metric in registry.collect():
            for sample in metric.samples:
                if sample.name == "grpc_server_handled_total":
                    counted += [sample.labels["grpc_code"]] * int(sample.value)
        return counted

    return Beside(PromServerInterceptor(registry=registry), codes)


def _grpc_interceptor(kind: str) -> Beside:
    codes: list[str] = []
    seen: list[type] = []
    interceptor = _Blocking(codes, seen) if kind == "sync" else _Awaiting(codes, seen)
    return Beside(interceptor, lambda: codes, seen)


class _Blocking(grpc_interceptor.ServerInterceptor):
    def __init__(self, codes: list[str], seen: list[type]) -> None:
        self._codes = codes
        self._seen = seen

    def intercept(self, method: Any, request_or_iterator: Any, context: Any, method_name: str) -> Any:
        if hasattr(request_or_iterator, "__next__"):
            request_or_iterator = self._watched(request_or_iterator)
        else:
            self._seen.append(type(request_or_iterator))
        try:
            reply = method(request_or_iterator, context)
        except Exception:
            self._codes.append(context.code().name)
            raise
        if hasattr(reply, "__next__"):
            return self._counted(reply, context)
        self._seen.append(type(reply))
        self._codes.append("OK")
        return reply

    def _watched(self, messages: Iterator[Any]) -> Iterator[Any]:
        for message in messages:
            self._seen.append(type(message))
            yield message

    def _counted(self, messages: Iterator[Any], context: Any) -> Iterator[Any]:
        try:
            yield from self._watched(messages)
        except Exception:
            self._codes.append(context.code().name)
            raise
        self._codes.append("OK")


class _Awaiting(grpc_interceptor.AsyncServerInterceptor):
    def __init__(self, codes: list[str], seen: list[type]) -> None:
        self._codes = codes
        self._seen = seen

    async def intercept(self, method: Any, request_or_iterator: Any, context: Any, method_name: str) -> Any:
        if hasattr(request_or_iterator, "__aiter__"):
            request_or_iterator = self._watched(request_or_iterator)
        else:
            self._seen.append(type(request_or_iterator))
        reply = method(request_or_iterator, context)
        if hasattr(reply, "__aiter__"):
            return self._counted(reply, context)
        try:
            message = await reply
        except Exception:
            self._codes.append(_name(context.code()))
            raise
        self._seen.append(type(message))
        self._codes.append("OK")
        return message

    async def _watched(self, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for message in messages:
            self._seen.append(type(message))
            yield message

    async def _counted(self, messages: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        try:
            async for message in self._watched(messages):
                yield message
        except Exception:
            self._codes.append(_name(context.code()))
            raise
        self._codes.append("OK")


def _name(code: Any) -> str:
    """The live context tells a number, the recording one a code."""
    return code.name if isinstance(code, grpc.StatusCode) else _NAMES[int(code)]
