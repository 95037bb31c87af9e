"""Makes stores from URLs (docs/reference/store-urls.md).

A URL's scheme names the store. Each package that brings a store registers the schemes that it can read as entry points:
in the group :data:`STORES` for ``grpc.server``, in the group :data:`ASYNC_STORES` for ``grpc.aio``. This package
registers its own stores in the same way.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol
from urllib.parse import unquote

from grpc_idempotency import _checks
from grpc_idempotency.errors import PolicyError
from grpc_idempotency.store import AsyncStore, Store

STORES = "grpc_idempotency.stores"
"""The group of the entry points that are :class:`StoreFactory`. Each has the name of a URL scheme, in lower case."""

ASYNC_STORES = "grpc_idempotency.aio.stores"
"""The same for :class:`AsyncStoreFactory`."""

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):(?P<address>[^?#]*)(\?(?P<query>[^#]*))?\Z")
_OPTION = re.compile(r"(?P<name>\w{1,60})=(?P<value>.*)\Z", re.DOTALL)
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?\Z")
_NUMBER = re.compile(r"[0-9]{1,9}\Z")
_FLAGS = {"true": True, "1": True, "false": False, "0": False}

Options = Mapping[str, Callable[[str], object]]
"""The options of a store by name. Each is read by a function that raises ``ValueError`` with a text that says what the
value must be: ``str``, :func:`flag`, :func:`number`, :func:`seconds`, or one like these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreUrl:
    """The URL of a store in its parts: ``scheme:address?name=value&…``. Its ``repr`` shows no password."""

    scheme: str
    """In lower case."""
    address: str = field(repr=False)
    """The part between the scheme's colon and the question mark, as it was given."""
    options: Mapping[str, str] = field(repr=False)
    """The options behind the question mark, percent-decoded."""
    text: str = field(repr=False)
    """The whole URL, as it was given."""

    def settings(self, known: Options, *, drivers: Collection[str] = ()) -> dict[str, Any]:
        """Reads the store's own options.

        Args:
            known: The options that the store has.
            drivers: The names of options that belong to the store's driver, and are not read.

        Returns:
            The values of the options that were given, by name.

        Raises:
            PolicyError: An option is unknown, or its value can't be read.
        """
        for name in self.options:
            if name not in known and name not in drivers:
                names = ", ".join(sorted(known)) or "none"
                more = ", and those of its driver" if drivers else ""
                raise PolicyError(f"a {self.scheme} URL has no option {name}; its options are {names}{more}")
        found: dict[str, Any] = {}
        for name in known.keys() & self.options.keys():
            try:
                found[name] = known[name](self.options[name])
            except ValueError as exc:
                raise PolicyError(f"the option {name} of a {self.scheme} URL {exc}") from None
        return found

    def without(self, names: Collection[str]) -> str:
        """Returns the URL for a driver, without the options of the store.

        Args:
            names: The options to leave out.

        Returns:
            The URL, otherwise as it was given.
        """
        address, _, query = self.text.partition("?")
        kept = [part for part in query.split("&") if part and part.partition("=")[0] not in names]
        return f"{address}?{'&'.join(kept)}" if kept else address


class StoreFactory(Protocol):
    """Makes a store for ``grpc.server`` from a URL of its scheme."""

    def __call__(self, url: StoreUrl, *, migrate: bool, read_only: bool) -> Store:
        """Makes the store, without opening it.

        Args:
            url: Where the store is.
            migrate: ``False`` if nothing that is missing may be created: the store must exist.
            read_only: ``True`` if operations are only read.

        Returns:
            The store.

        Raises:
            PolicyError: The URL does not name a store. The text repeats no part of the address, which may contain a
                password.
        """


class AsyncStoreFactory(Protocol):
    """Makes a store for ``grpc.aio`` from a URL of its scheme."""

    def __call__(self, url: StoreUrl, *, migrate: bool, read_only: bool) -> AsyncStore:
        """See :meth:`StoreFactory.__call__`."""


def store_from_url(url: str, *, migrate: bool = True, read_only: bool = False) -> Store:
    """Makes a store for ``grpc.server`` from its URL, without opening it.

    Args:
        url: Such as ``sqlite:///relative.db``, ``postgresql://host/database`` or ``redis://host``; see
            docs/reference/store-urls.md.
        migrate: ``False`` to create nothing: a store that does not exist is then an error, here or when it is opened.
        read_only: ``True`` if operations are only read. Where the store allows, nothing is changed then.

    Returns:
        The store.

    Raises:
        PolicyError: The URL is malformed, no package has registered its scheme, or the store needs a package that is
            not installed.
        StoreUnavailable: The store does not exist or can't be read, and is not to be created.
    """
    parsed = _parsed(url)
    factory: StoreFactory = _registered(STORES, parsed.scheme)
    return factory(parsed, migrate=migrate, read_only=read_only)


def async_store_from_url(url: str, *, migrate: bool = True, read_only: bool = False) -> AsyncStore:
    """Makes a store for ``grpc.aio`` from its URL, without opening it.

    Args:
        url: See :func:`store_from_url`.
        migrate: See :func:`store_from_url`.
        read_only: See :func:`store_from_url`.

    Returns:
        The store.

    Raises:
        PolicyError: See :func:`store_from_url`.
        StoreUnavailable: See :func:`store_from_url`.
    """
    parsed = _parsed(url)
    factory: AsyncStoreFactory = _registered(ASYNC_STORES, parsed.scheme)
    return factory(parsed, migrate=migrate, read_only=read_only)


# Kinds of options


def flag(value: str) -> bool:
    """Reads a flag.

    Args:
        value: ``true`` or ``1``, or ``false`` or ``0``.

    Returns:
        The flag.

    Raises:
        ValueError: The value is something else.
    """
    if value not in _FLAGS:
        raise ValueError("must be true or false")
    return _FLAGS[value]


def number(value: str) -> int:
    """Reads a whole number.

    Args:
        value: Up to nine digits.

    Returns:
        The number.

    Raises:
        ValueError: The value is something else.
    """
    if not _NUMBER.match(value):
        raise ValueError("must be a whole number")
    return int(value)


def seconds(value: str) -> timedelta:
    """Reads a duration.

    Args:
        value: A number of seconds, with up to six decimals.

    Returns:
        The duration.

    Raises:
        ValueError: The value is something else.
    """
    if not _SECONDS.match(value):
        raise ValueError("must be a number of seconds, as 5 or 0.5")
    return timedelta(seconds=float(value))


# Within


def _registered(group: str, scheme: str) -> Any:
    """Returns the factory that is registered for a scheme."""
    from importlib.metadata import entry_points  # on use: the interceptors do not need it

    found = {entry.value: entry for entry in entry_points(group=group, name=scheme)}
    if not found:
        known = ", ".join(sorted({entry.name for entry in entry_points(group=group)}))
        raise PolicyError(f"there is no store for the URL scheme {scheme}; known are: {known or 'none'}")
    if len(found) > 1:
        raise PolicyError(f"several packages have a store for the URL scheme {scheme}: {', '.join(sorted(found))}")
    (entry,) = found.values()
    try:
        return entry.load()
    except (AttributeError, ImportError) as exc:
        raise PolicyError(f"the store for the URL scheme {scheme} can't be imported: {exc}") from exc


def _parsed(url: str) -> StoreUrl:
    """Takes a URL apart. No error repeats a part of it that may belong to a password."""
    match = _URL.match(_checks.one_of("url", url, str))
    if match is None:
        raise PolicyError(
            "a store's URL begins with its scheme, such as sqlite:///FILE or postgresql://HOST/DATABASE, and has no #; "
            "within a name or a password write %23 for it"
        )
    scheme, address, query = match["scheme"].lower(), match["address"], match["query"] or ""
    _check_authority(address, query)
    return StoreUrl(scheme=scheme, address=address, options=_options(scheme, query), text=url)


def _check_authority(address: str, query: str) -> None:
    """Refuses a URL whose user or password is not percent-encoded: a part of it would count as host or path."""
    authority, _, path = address[2:].partition("/") if address.startswith("//") else ("", "", "")
    if authority and (authority.count("@") > 1 or "@" in path or "@" in query):
        raise PolicyError(
            "a store's URL has one @ at most, before the host: elsewhere write %40 for it, and in a password %2F for "
            "/, %3F for ? and %23 for #"
        )


def _options(scheme: str, query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in query.split("&") if query else ():
        match = _OPTION.match(part)
        if match is None:
            raise PolicyError(f"the options of a {scheme} URL are written as ?name=value&name=value")
        if match["name"] in options:
            raise PolicyError(f"the option {match['name']} of a {scheme} URL is given twice")
        options[match["name"]] = unquote(match["value"])
    return options
