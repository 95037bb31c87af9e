"""Who acts in the world: processes, their calls and executions, and what goes on beside these."""

from typing import Any

from grpc_idempotency._protocol.effects import Call, Conclusion, Effect, Plan

_NUMBERS: dict[Any, int] = {}


def number(value: Any) -> int:
    """A number that stands for exactly this value."""
    return _NUMBERS.setdefault(value, len(_NUMBERS))


class Process:
    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.executions: dict[bytes, Execution] = {}
        self.poller: Actor | None = None


class Actor:
    """One plan on its way: a call, an execution, or what goes on beside one."""

    def __init__(self, name: str, process: Process, plan: Plan[Any], call: Call | None = None) -> None:
        self.name = name
        self.process = process
        self.plan = plan
        self.call = call
        self.effect: Effect[Any] | None = None
        """What it asks for now; ``None`` when it is over, and when its process died."""
        self.result: Any = None
        self.history = number(name)
        """Stands for all that it was ever replied, and so for all that it knows."""
        self.seen = -1
        """The version of the store that it saw last: to poll what has not changed tells nobody anything."""
        self.early: Conclusion | None = None
        """What it is told of an execution that it waits for and whose handler can't be stopped."""
        self.awaited_ended = False
        """Whether the run elsewhere that it waits for has ended, as far as its process knows."""

    @property
    def beside(self) -> bool:
        """Whether nobody waits for its end: it renews a lease, or looks out."""
        return False

    def key(self, version: int) -> tuple[object, ...]:
        return (self.history, self.effect is None, self.seen == version, self.early is None, self.awaited_ended)


class Beside(Actor):
    @property
    def beside(self) -> bool:
        return True


class Execution(Actor):
    def __init__(self, name: str, process: Process, plan: Plan[Any], call: Call, *, late: bool = False) -> None:
        super().__init__(name, process, plan, call)
        self.fingerprint = call.fingerprint
        self.conclusion: Conclusion | None = None
        self.lease_until = 0.0
        """By its owner's clock, which here is the store's. Without a claim: until when its write is tried."""
        self.run = f"run of {name}"
        self.stage = 0
        """Of the handler: 1 when it has begun, 2 when its effect has taken place, or it has come to its step."""
        self.claimed = False
        """Whether the operation is claimed, as far as the handler knows."""
        self.steps = False
        """Whether a step was begun."""
        self.late = late
        """Whether the outcome was stored before it began."""
        self.renewal: Actor | None = None

    def key(self, version: int) -> tuple[object, ...]:
        state = (self.stage, self.claimed, self.steps, self.late, self.lease_until, self.conclusion is None)
        return (*super().key(version), *state)


class Early(Execution):
    """Tells those who wait for an execution whose handler can't be stopped."""

    def __init__(self, execution: Execution, plan: Plan[Any], call: Call) -> None:
        super().__init__(f"{execution.name}/early", execution.process, plan, call)
        self.lease_until = execution.lease_until
        self.execution = execution
