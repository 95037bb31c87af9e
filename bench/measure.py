"""Measures a case: both servers run, and load goes to one and then to the other, again and again."""

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from bench.cases import CALLERS, KINDS, Case, Keys, Kind, Role, Service
from bench.engines import Engine
from bench.places import processors
from bench.processes import Process
from bench.setup import Setup, Tuning

Side = Literal["reference", "measured"]
SIDES: tuple[Side, Side] = ("reference", "measured")
_HOT = 1_024
"""The number of keys in hot replays."""
_SHORT, _SHORTLY = 0.25, 0.03
"""The seconds of a burst of servers in one process, and of its warm-up: the servers are warm from the last one.

What observers cost is less than the differences between two processes of the same code, and between two seconds.
"""
_MOST_PER_SECOND = 8_000
"""The number of keys stored for each second of a burst: more than the replays that a server can answer in a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The settings of a measurement."""

    pairs: int
    seconds: float
    """The seconds of each burst of calls. A pair has two bursts."""
    warm_up: float
    callers: Sequence[int] = CALLERS
    tuning: Tuning = field(default_factory=Tuning)
    tuned_alone: bool = False
    """True if the reference is the same server with the interceptor, without the tuning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """The figures of one server under load for a time."""

    throughput: float
    """Calls per second."""
    p50: float
    """Seconds."""
    p99: float
    """Seconds."""
    server_cpu: float
    """The share of one processor that the server used."""
    load_cpu: float
    """The share of one processor that the load used."""
    cpu_per_call: float
    """The server's processor time per call, in seconds."""
    engine_cpu_per_call: float | None = None
    """That of the database server; ``None`` if there is none."""


class Bursts:
    """The bursts of two servers in turn."""

    def __init__(self) -> None:
        self.of: dict[Side, list[Burst]] = {side: [] for side in SIDES}
        self.faults: list[str] = []

    def ratios(self, what: str) -> list[float]:
        """Returns the ratio of a value to that of the reference, for each pair."""
        pairs = zip(self.of["measured"], self.of["reference"], strict=True)
        values = [(getattr(measured, what), getattr(reference, what)) for measured, reference in pairs]
        return [measured / reference for measured, reference in values if reference]

    def ratio(self, what: str) -> float:
        """Returns the median over the pairs."""
        ratios = self.ratios(what)
        return statistics.median(ratios) if ratios else 0.0

    def median(self, side: Side, what: str) -> float:
        """Returns the median of one value over the bursts of a side."""
        return statistics.median(self._values(side, what) or [0.0])

    def medians(self, side: Side) -> dict[str, float]:
        """Returns the figures of all bursts."""
        return {name: self.median(side, name) for name in Burst.__dataclass_fields__ if self._values(side, name)}

    def _values(self, side: Side, what: str) -> list[float]:
        values: list[float | None] = [getattr(burst, what) for burst in self.of[side]]
        return [value for value in values if value is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """The result for one case and number of callers, as in the JSON file."""

    case: str
    title: str
    kind: Kind
    versus: Role
    callers: int
    ratio: float
    """The median of the pairs' ratios."""
    ratios: list[float]
    cpu_ratio: float
    """The median of the pairs' ratios of processor time per call."""
    target: float | None
    reference: dict[str, float]
    measured: dict[str, float]
    faults: list[str]

    @property
    def met(self) -> bool | None:
        """True if the target was met, rounded as in the table; ``None`` if there is no target."""
        return None if self.target is None else round(self.ratio, 2) >= self.target

    @property
    def server(self) -> str:
        """What makes the calls take effect: a kind of server, or for a store by itself, what its callers are."""
        return KINDS[self.kind] if self.versus != "pool" else {"aio": "tasks", "sync": "threads"}[self.kind]

    def as_json(self) -> dict[str, Any]:
        """Returns the result for JSON."""
        return {**asdict(self), "met": self.met}

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> "Figure":
        """Makes a result from the output of :meth:`as_json`."""
        return cls(**{name: values[name] for name in cls.__dataclass_fields__})


def measure(case: Case, setting: Setting, engine: Engine, progress: Callable[[], None]) -> list[Figure]:
    """Runs all pairs of a case, for each number of callers. ``progress`` is called for each burst."""
    with ExitStack() as ends:
        setting = setting_of(case, setting)
        servers = dict(zip(SIDES, _started(case, setting, engine), strict=True))
        for server in servers.values():
            ends.callback(server.end)
        load = Load(ends, case.service, engine)
        faults = [fault for server in servers.values() for fault in prepared(case, setting, server, load)]
        figures = []
        for callers in setting.callers:
            bursts = Bursts()
            bursts.faults += faults
            for _ in range(setting.pairs):
                for side in SIDES:
                    _burst(bursts, case, callers, setting, side, servers[side], load)
                    progress()
            figures.append(figure_of(case, callers, setting, engine, bursts))
            faults = []
        return figures


def setting_of(case: Case, setting: Setting) -> Setting:
    """Returns the setting for a case. Servers in one process have shorter bursts, and more of them."""
    if not case.in_one_process or setting.seconds <= _SHORT:
        return setting
    return replace(setting, pairs=round(setting.pairs * setting.seconds / _SHORT), seconds=_SHORT, warm_up=_SHORTLY)


def _started(case: Case, setting: Setting, engine: Engine) -> list["Server"]:
    """Starts the servers of both sides."""
    setups = [setup_of(case, side, setting, engine) for side in SIDES]
    return Server.together(setups) if case.in_one_process else [Server(setup) for setup in setups]


def setup_of(case: Case, side: Side, setting: Setting, engine: Engine) -> Setup:
    """Returns the setup of one side of a case, with a new database."""
    name = f"{case.name}-{side}"
    role: Role = "ours" if side == "measured" else _reference(case, setting)
    on_sqlite = role == "sqlite"
    return Setup(
        name=name,
        kind=case.kind,
        role="ours" if role in ("sqlite", "unobserved") else role,
        observed=side == "measured" and case.reference == "unobserved",
        service=case.service,
        database=engine.file(name) if on_sqlite else engine.place(name),
        store="sqlite" if on_sqlite else engine.store,
        tuning=Tuning() if side == "reference" and setting.tuned_alone else setting.tuning,
    )


def _reference(case: Case, setting: Setting) -> Role:
    return "ours" if setting.tuned_alone else case.reference


def prepared(case: Case, setting: Setting, server: "Server", load: "Load") -> list[str]:
    """Stores the outcomes that will be replayed, and returns the failures."""
    if server.setup.role != "ours" or case.keys not in ("hot", "cold"):
        return []
    seconds = setting.warm_up + setting.seconds
    count = _HOT if case.keys == "hot" else max(_HOT, int(_MOST_PER_SECOND * seconds))
    return load.make(server, count, keep=True)


def _burst(
    bursts: Bursts, case: Case, callers: int, setting: Setting, side: Side, server: "Server", load: "Load"
) -> None:
    keys, status = case.keys, case.status
    if keys == "cold":
        server.restart()
    if server.setup.role != "ours":
        # A server that stores no outcomes ignores keys.
        keys, status = "none" if keys == "none" else "unique", None
    burst, faults = load.burst(server, keys, callers, setting, status=status)
    bursts.of[side].append(burst)
    bursts.faults += faults


def figure_of(case: Case, callers: int, setting: Setting, engine: Engine, bursts: Bursts) -> Figure:
    """Makes the figure of all bursts with one number of callers."""
    cpu = bursts.ratio("cpu_per_call")
    return Figure(
        case=case.name,
        title=case.title,
        kind=case.kind,
        versus=_reference(case, setting),
        callers=callers,
        ratio=bursts.ratio("throughput"),
        ratios=bursts.ratios("throughput"),
        cpu_ratio=1 / cpu if cpu else 0.0,
        target=None if setting.tuned_alone else case.target(engine.store, callers),
        reference=bursts.medians("reference"),
        measured=bursts.medians("measured"),
        faults=bursts.faults,
    )


class Server:
    """A server in another process than this one."""

    def __init__(self, setup: Setup, process: Process | None = None, number: int = 0) -> None:
        self.setup = setup
        self.process = process or _serving(setup)
        self._number = number

    @classmethod
    def together(cls, setups: Sequence[Setup]) -> list["Server"]:
        """Starts servers in one process."""
        process = _serving(*setups)
        return [cls(setup, process, number) for number, setup in enumerate(setups)]

    def restart(self) -> None:
        """Ends the process, and starts another one on the same file. The server is alone in it."""
        self.process.end()
        self.process = _serving(self.setup)

    def ask(self) -> dict[str, Any]:
        """Returns the server's port and its figures."""
        return self.process.ask(server=self._number)

    def end(self) -> None:
        """Ends the process."""
        self.process.end()


def _serving(*setups: Setup) -> Process:
    return Process("bench.server", *(setup.as_argument() for setup in setups), cpus=processors().servers)


class Load:
    """The process that makes the calls, and the checks of their results."""

    def __init__(self, ends: ExitStack, service: Service, engine: Engine) -> None:
        self._process = ends.enter_context(Process("bench.load", cpus=engine.processors.load))
        self._engine = engine
        self._service = service

    def make(self, server: Server, count: int, *, keep: bool = False, callers: int = CALLERS[-1]) -> list[str]:
        """Makes ``count`` first calls, keeps their replies for replays if asked to, and returns the failures."""
        before = server.ask()
        result = self._order(server, do="make", port=before["port"], callers=callers, count=count, keep=keep)
        return _faults(server, result, server.ask()["effects"] - before["effects"], "executed")

    def burst(
        self, server: Server, keys: Keys, callers: int, setting: Setting, *, status: str | None
    ) -> tuple[Burst, list[str]]:
        """Measures for a time, and returns the figures and the failures."""
        before = server.ask()
        engine_before, began = self._engine.cpu(), time.perf_counter()
        result = self._order(
            server,
            do="measure",
            port=before["port"],
            callers=callers,
            keys=keys,
            warm_up=setting.warm_up,
            seconds=setting.seconds,
        )
        took, engine_after = time.perf_counter() - began, self._engine.cpu()
        after = server.ask()  # which may count effects in the database
        cpu, calls = after["cpu"] - before["cpu"], max(1, result["calls"])
        burst = Burst(
            throughput=result["throughput"],
            p50=result["p50"],
            p99=result["p99"],
            server_cpu=cpu / took,
            load_cpu=result["cpu"],
            cpu_per_call=cpu / calls,
            engine_cpu_per_call=per_call(calls, engine_before, engine_after),
        )
        return burst, _faults(server, result, after["effects"] - before["effects"], status)

    def elsewhere(self, first: Server, other: Server, setting: Setting) -> tuple[dict[str, Any], list[str]]:
        """Makes first calls to one server, one after the other, each with a replay from another one right after it.

        Returns:
            The load's results for the first calls (``first``) and for the replays (``replay``), and the failures.
        """
        servers = (first, other)
        before = [server.ask() for server in servers]
        result = self._order(
            first,
            do="elsewhere",
            ports=[told["port"] for told in before],
            warm_up=setting.warm_up,
            seconds=setting.seconds,
        )
        effects = [server.ask()["effects"] - told["effects"] for server, told in zip(servers, before, strict=True)]
        faults = _faults(first, result["first"], effects[0], "executed")
        return result, faults + _faults(other, result["replay"], effects[1], "replayed")

    def _order(self, server: Server, **order: Any) -> dict[str, Any]:
        return self._process.ask(service=self._service, server=server.setup.name, **order)


def per_call(calls: int, before: float | None, after: float | None) -> float | None:
    """Returns the processor time of each call from that of a process before and after all."""
    # The time of a process is rounded down when it ends.
    return None if before is None or after is None else max(0.0, after - before) / calls


def _faults(server: Server, result: dict[str, Any], effects: int, status: str | None) -> list[str]:
    """Returns the failures: failed calls, replies with another mark, and missing effects."""
    setup = server.setup
    where = f"{setup.name}, {setup.role}"
    faults = [f"{where}: {count} calls failed with {why}" for why, count in result["failed"].items()]
    mark = status or ""
    others = {name: count for name, count in result["statuses"].items() if name != mark}
    if others:
        faults.append(f"{where}: replies marked {others} where {mark!r} was due")
    if not result["calls"]:
        faults.append(f"{where}: no call was made")
    expected = 0 if status == "replayed" else result["calls"]
    if effects != expected:
        faults.append(f"{where}: {result['calls']} calls took effect {effects} times instead of {expected}")
    return faults
