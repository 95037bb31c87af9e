"""Subscribes a poll to the notifications of a store whose database sends them (4.3)."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger("grpc_idempotency")


@contextmanager
def subscribe(store: Any, changed: Callable[[], object]) -> Iterator[None]:
    """Calls ``changed`` when the store is notified of a change, within the block. Other stores are only polled.

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
            logger.warning("the store can't be subscribed to: waiting calls learn of changes by polls", exc_info=True)
    try:
        yield
    finally:
        if end is not None:
            end()
