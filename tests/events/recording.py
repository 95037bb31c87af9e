"""An observer that keeps the events it is told, and reads them as lines."""

import threading
from collections.abc import Iterable
from enum import Enum

from grpc_idempotency.events import CallAnswered, Event

from ..harness.waiting import until


class Recorder:
    """Keeps events, and the threads in which they were told."""

    def __init__(self, *kinds: type[Event]) -> None:
        if kinds:
            self.events = kinds
        self.told: list[Event] = []
        self.threads: set[str] = set()

    def __call__(self, event: Event) -> None:
        self.told.append(event)
        self.threads.add(threading.current_thread().name)

    def of(self, *kinds: type[Event]) -> list[Event]:
        return [event for event in self.told if isinstance(event, kinds)]

    def lines(self) -> list[str]:
        return [line(event) for event in self.told]

    async def answered(self, calls: int) -> None:
        """Waits until the answers of so many calls are told: some leave before they are."""

        async def told() -> bool:
            return len(self.of(CallAnswered)) >= calls

        await until(told)

    async def has(self, lines: Iterable[str]) -> None:
        """Waits until these lines are there."""
        wanted = list(lines)

        async def there() -> bool:
            return all(self.lines().count(one) >= wanted.count(one) for one in wanted)

        await until(there)


def line(event: Event) -> str:
    """Reads an event as its class, and those fields that say what has happened, in their order."""
    parts = []
    for name, value in event._asdict().items():
        if name in ("method", "operation", "seconds", "waited", "trace", "freed_bytes") or value in (None, ""):
            continue
        if isinstance(value, bool):
            parts += [name] if value else []
        else:
            parts.append(value.name.lower() if isinstance(value, Enum) else str(value))
    return " ".join([type(event).__name__, *parts])
