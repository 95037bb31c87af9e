"""Every error that the library raises, under one base class.

Each docstring says what the error means, and whether it is expected in normal use or means a bug.
"""


class IdempotencyError(Exception):
    """Base class of every error of this library."""


class PolicyError(IdempotencyError, ValueError):
    """A policy can't be met, or a configuration contradicts itself. Means a bug in the embedder's code."""


class StoreError(IdempotencyError):
    """Base class of store errors."""


class StoreUnavailable(StoreError):
    """The store can't do this call now, but may later: it is locked, full or unreachable. Expected in normal use.

    Args:
        message: The error's text.
        landed: ``False`` if the write certainly did not take effect, by this or an earlier try of the store; ``None``
            if that is unknown until the record's fence is read.
    """

    def __init__(self, message: str, *, landed: bool | None = False) -> None:
        super().__init__(message)
        self.landed = landed


class StoreUnusable(StoreUnavailable):
    """The store stays unusable until an operator acts: it is read-only, corrupt, foreign, or of a newer version.

    It is a :class:`StoreUnavailable`, since its calls are refused in the same way.
    """


class Unstorable(StoreUnavailable):
    """The store can never keep a value that it was given. Nothing was written. Means a bug in the calling code.

    Examples are a text with a lone surrogate, an integer of more than 64 bits, and a type that the store does not know.
    It is a :class:`StoreUnavailable`, since its calls are refused in the same way, but a retry is of no use.
    """


class FenceRefused(StoreError):
    """The record has another owner now, or was written by another run first. Nothing was written.

    Expected when a slow process outlives its lease, and when two processes run one operation that is claimed at its
    transaction's commit (5.1).
    """


class OperationNotFound(IdempotencyError, LookupError):
    """No operation has this name, or several do. Expected when an operator mistypes it, or it has expired."""


class NotHeld(IdempotencyError):
    """An operation can't be resolved, since it is not held or has changed meanwhile. Nothing was changed.

    Expected when two operators are at work, or when its server was only slow.
    """


class NotForgotten(IdempotencyError):
    """An operation can't be forgotten, since its lease holds or it has changed meanwhile. Nothing was changed.

    Expected when its server is still at work, or when two operators are.
    """


class InvalidOutcome(IdempotencyError, ValueError):
    """An outcome does not fit the operation's kind of call. Nothing was changed.

    Means a mistake of the operator, or a bug in the program that resolves.
    """


class OutcomeUnknown(IdempotencyError):
    """A handler can't know whether its call took effect: ``raise OutcomeUnknown("the provider did not answer")``.

    Expected in normal use. Handlers raise it; this library does not. What becomes of the operation depends on the
    method's effects (4.5): an opaque one is held, until an operator resolves it. A repeatable or transactional one runs
    again, as after a failure that may pass. If the handler's transaction has committed the outcome already, that
    outcome counts.

    An exception that was raised from it (``raise ... from``), or an exception group that contains it, has the same
    meaning.

    Args:
        reason: What operators should know. It is kept with the held operation and written to the log. No client sees
            it.
    """

    reason: str = ""
    """What operators should know."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = str(reason)


class StepMisuse(IdempotencyError, RuntimeError):
    """A handler's steps are not the same in every run, or are not unique. Means a bug in the handler."""


class TransactionMisuse(IdempotencyError, RuntimeError):
    """A transaction's function did something that is not allowed. Means a bug in the handler.

    It must not control the transaction, await, outlive the transaction, call a store, continue after a rollback, or
    commit twice in one keyed call.
    """


class ConcurrentCalls(IdempotencyError, RuntimeError):
    """A handler, a step or a retried function made a call while another one of its calls was running.

    Their derived keys would not be the same in every run, so nothing was sent. Means a bug in the calling code.
    """


class UnkeyedRetry(IdempotencyError, RuntimeError):
    """A failed call would have been retried without an idempotency key. It was made once. Means a bug in the calling
    code.
    """
