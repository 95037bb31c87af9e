"""What users import: the names say where they are from, and nothing is loaded before it is used."""

import copy
import importlib
import inspect
import pickle
import pkgutil
import subprocess
import sys
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta, timezone
from types import FunctionType, ModuleType

import pytest

import grpc_idempotency
from grpc_idempotency import (
    ClientPolicy,
    Code,
    Disposition,
    Effects,
    Outcome,
    Policy,
    Reason,
    Record,
    Refusal,
    State,
    aio,
    errors,
    records,
)


def public_modules() -> Iterator[ModuleType]:
    """The library's modules that are not private; those of ``v1`` are generated."""
    yield grpc_idempotency
    for module in pkgutil.walk_packages(grpc_idempotency.__path__, "grpc_idempotency."):
        if not any(part.startswith("_") or part == "v1" for part in module.name.split(".")):
            yield importlib.import_module(module.name)


EXPORTED = [(module, name) for module in public_modules() for name in getattr(module, "__all__", ())]
"""Each public name of each module that lists them."""
ERRORS = [error for error in vars(errors).values() if isinstance(error, type)]
RECORD = Record(
    name=b"n" * 16,
    method="/shop.orders.v1.OrderService/CreateOrder",
    state=State.COMPLETED,
    fence=b"f" * 16,
    fingerprint=records.Fingerprint(raw=b"r" * 32, canonical=b"c" * 32),
    effects=Effects.REPEATABLE,
    attempts=1,
    created_at=datetime(2026, 1, 31, tzinfo=timezone.utc),
    outcome=Outcome(status=Code.NOT_FOUND, details="no such user", trailers=(("a-bin", b"1"),)),
)
VALUES = [
    ClientPolicy(headers=("x-key",)),
    Policy(effects=Effects.REPEATABLE, statuses={Code.INTERNAL: Disposition.RELEASE}, ttl=timedelta(hours=1)),
    RECORD,
    Refusal(reason=Reason.IN_FLIGHT, retry_after=timedelta(seconds=1)),
    *(member for enum in (Code, Disposition, Effects, Reason, State) for member in enum),
]


@pytest.mark.parametrize(("module", "name"), EXPORTED, ids=lambda one: getattr(one, "__name__", one))
def test_a_public_name_says_where_it_is_from(module: ModuleType, name: str) -> None:
    """The module that a public class or function names is a public one, and has it under the name that it gives."""
    value = getattr(module, name)
    if isinstance(value, type | FunctionType) and typing.get_origin(value) is None:  # which Python 3.10 takes for types
        assert not any(part.startswith("_") for part in value.__module__.split("."))
        assert getattr(importlib.import_module(value.__module__), value.__qualname__) is value
        assert pickle.loads(pickle.dumps(value)) is value  # noqa: S301  # our own


def test_what_users_read() -> None:
    """A repr names what a user can import, where the library's own modules lie deeper."""
    assert repr(grpc_idempotency.IdempotencyInterceptor) == "<class 'grpc_idempotency.IdempotencyInterceptor'>"
    assert repr(aio.IdempotencyInterceptor) == "<class 'grpc_idempotency.aio.IdempotencyInterceptor'>"
    assert repr(Reason.IN_FLIGHT) == "<Reason.IN_FLIGHT>"
    assert repr(grpc_idempotency.SQLiteStore) == "<class 'grpc_idempotency.stores.sqlite.SQLiteStore'>"


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_are_pickled(value: object) -> None:
    """A public value is the same again after it was pickled, or copied."""
    assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301  # our own
    assert copy.deepcopy(value) == value


@pytest.mark.parametrize("error", ERRORS)
def test_errors_are_pickled(error: type[Exception]) -> None:
    """An error keeps its class, its message and what it knows."""
    raised = error("told")
    again = pickle.loads(pickle.dumps(raised))  # noqa: S301  # our own
    assert (type(again), again.args, vars(again)) == (error, ("told",), vars(raised))


def test_an_unsure_error_is_pickled() -> None:
    """A :class:`StoreUnavailable` still says that nobody knows whether the write took effect."""
    raised = errors.StoreUnavailable("told", landed=None)
    assert pickle.loads(pickle.dumps(raised)).landed is None  # noqa: S301  # our own


def test_hints_are_resolved() -> None:
    """The annotations of public values can be read, wherever the class says that it is from."""
    for value in (getattr(module, name) for module, name in EXPORTED):
        if isinstance(value, type) and is_dataclass(value):
            assert {field.name for field in fields(value)} <= typing.get_type_hints(value).keys()


def test_arguments_are_described() -> None:
    """The docstring of a public function describes each argument, or says which other docstring does."""
    for module in public_modules():
        if module.__name__.startswith("grpc_idempotency.testing"):
            continue  # most of it are tests
        owners: list[ModuleType | type] = [module, *(one for one in own(module) if isinstance(one, type))]
        for owner in owners:
            for function in own(owner, module):
                doc = inspect.getdoc(function) or ""
                if isinstance(function, FunctionType) and ":meth:" not in doc and "See :" not in doc:
                    arguments = inspect.signature(function).parameters.values()
                    names = [one.name for one in arguments if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
                    missing = [name for name in names if name not in ("self", "cls") and f"    {name}: " not in doc]
                    assert not missing, f"{module.__name__}.{function.__qualname__}: {missing}"


def own(owner: ModuleType | type, module: ModuleType | None = None) -> Iterator[object]:
    """The public classes and functions that a module, or a class in it, defines itself."""
    name = (module or owner).__name__
    for key, value in vars(owner).items():
        if not key.startswith("_") and getattr(value, "__module__", None) == name:
            yield value


def test_names_are_listed_in_order() -> None:
    """``__all__`` is sorted, and ``dir`` shows all of it, also what was not imported yet."""
    for module in (grpc_idempotency, aio):
        assert module.__all__ == sorted(module.__all__)
        assert set(module.__all__) <= set(dir(module))


def test_a_wrong_name_is_told() -> None:
    """A name that a module does not have is an AttributeError, as with any module."""
    for module in (grpc_idempotency, aio):
        with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'MongoStore'"):
            module.MongoStore  # noqa: B018


@pytest.mark.parametrize("module", ["grpc_idempotency", "grpc_idempotency.aio"])
def test_a_store_is_imported_on_use(module: str) -> None:
    """A driver is loaded with the store that needs it, and not with an interceptor on another store."""
    script = f"""
        import sys, {module} as library
        drivers = {{"aiosqlite", "sqlite3", "psycopg", "psycopg_pool", "redis"}}
        assert not drivers & sys.modules.keys()
        library.IdempotencyInterceptor(library.MemoryStore())
        assert not drivers & sys.modules.keys()
        stores = {{"PostgresStore": "psycopg", "RedisStore": "redis", "SQLiteStore": "aiosqlite"}}
        for store, driver in stores.items():
            assert driver not in sys.modules
            getattr(library, store)
            assert driver in sys.modules
            assert store in vars(library)
        """
    command = [sys.executable, "-W", "error", "-c", inspect.cleandoc(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
