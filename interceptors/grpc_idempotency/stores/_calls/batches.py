"""Reports the batches of a writer to those who observe its stores (:class:`grpc_idempotency.store.ObservableStore`)."""

import logging
import threading
import weakref
from collections.abc import Callable

Committed = Callable[[int, float], object]
_log = logging.getLogger("grpc_idempotency.stores")


class Batches:
    """The functions that observe one store."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.observers: tuple[Committed, ...] = ()

    def add(self, committed: Committed) -> Callable[[], None]:
        """Adds a function, and returns the function that removes it."""
        with self._lock:
            self.observers += (committed,)
        return lambda: self._remove(committed)

    def _remove(self, committed: Committed) -> None:
        with self._lock:
            self.observers = tuple(one for one in self.observers if one is not committed)

    def tell(self, size: int, seconds: float) -> None:
        """Reports a batch.

        Args:
            size: How many requests were in it.
            seconds: How long it took.
        """
        for committed in self.observers:
            try:
                committed(size, seconds)
            except BaseException:  # the writer must go on
                _log.exception("an observer of the store failed")


class Watched:
    """The observed stores of one writer. It does not keep them alive.

    A writer reads :attr:`stores` before each batch: it is empty if nobody observes one of its stores.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.stores: tuple[weakref.ref[Batches], ...] = ()

    def add(self, batches: Batches) -> None:
        """Reports batches to the observers of one more store, if that is not done already."""
        with self._lock:
            left = [ref for ref in self.stores if ref() not in (None, batches)]
            self.stores = (*left, weakref.ref(batches))

    def tell(self, size: int, seconds: float) -> None:
        """Reports a batch, as :meth:`Batches.tell`."""
        for ref in self.stores:
            batches = ref()
            if batches is not None:
                batches.tell(size, seconds)
