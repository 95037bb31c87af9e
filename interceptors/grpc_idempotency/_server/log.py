"""The log, as an observer that is always there: it writes the events that an operator should find (5.4, 6.3)."""

import logging

from grpc_idempotency.events import (
    Became,
    Claimed,
    Drained,
    Event,
    Fate,
    Held,
    LeaseLost,
    Recovered,
    Settled,
    Swept,
)

logger = logging.getLogger("grpc_idempotency")

_BECAME = {
    Became.WAITING: "operation %s of %s failed in a way that may pass, and will run again",
    Became.UNDOING: "operation %s of %s has failed for good; its finished steps are undone",
}


def log(event: Event) -> None:
    """Writes an event to the log, unless it is one of those that need nobody's attention."""
    match event:
        case Claimed(method=method, operation=operation, cut_short=True):
            logger.warning("took over operation %s of %s, whose server is gone", operation.hex(), method)
        case Claimed(method=method, operation=operation):
            logger.warning("operation %s of %s runs again", operation.hex(), method)
        case LeaseLost(method=method, operation=operation, for_good=True):
            logger.warning("operation %s of %s has been taken over or held while it ran here", operation.hex(), method)
        case LeaseLost(method=method, operation=operation):
            logger.warning(
                "the lease of operation %s of %s ran out while it ran here, since it could not be renewed in time",
                operation.hex(),
                method,
            )
        case Held(method=method, operation=operation, reason=reason):
            logger.warning(
                "operation %s of %s is held until an operator resolves it: %s", operation.hex(), method, reason
            )
        case Settled(method=method, operation=operation, became=became) if became in _BECAME:
            logger.warning(_BECAME[became], operation.hex(), method)
        case Recovered(method=method, operation=operation, fate=Fate.RUN):
            logger.info("finishing operation %s of %s without its client", operation.hex(), method)
        case Recovered(method=method, operation=operation, fate=Fate.RELEASE):
            logger.warning(
                "operation %s of %s is released: its server is gone, and it has had no effect", operation.hex(), method
            )
        case Recovered(method=method, operation=operation, fate=Fate.LEAVE, reason=reason):
            logger.error("operation %s of %s is left to its client: %s", operation.hex(), method, reason)
        case Swept(deleted=deleted, freed_bytes=freed) if deleted:
            logger.info("swept %d expired records, gave back %d bytes", deleted, freed)
        case Drained(unfinished=unfinished) if unfinished:
            logger.error("%d operations did not end within the drain limit", unfinished)
        case _:
            pass
