"""Subscribes a poll to the changes that a store is told of, if the store is told of any (4.3)."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger("grpc_idempotency")


@contextmanager
def subscribe(store: Any, changed: Callable[[], object]) -> Iterator[None]:
    """Has ``changed`` called within the block when the store is told of a change. Without that, polls alone tell.

    Args:
        store: A store, which may be a :class:`~grpc_idempotency.store.NotifyingStore`.
        changed: Called in any thread.
    """
    end: Callable[[], object] | None = None
    subscribe_to = getattr(store, "subscribe", None)
    if subscribe_to is not None:
        try:
            end = subscribe_to(changed)
        except Exception:
            logger.warning("the store can't tell of changes: waiting calls learn of them by polls", exc_info=True)
    try:
        yield
    finally:
        if end is not None:
            end()
