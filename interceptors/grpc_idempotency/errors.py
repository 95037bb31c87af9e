"""Every error that the library raises, under one root.

A docstring here is also the error's meaning in one sentence; its last words say whether it is part of normal use or
means that something is to be mended.
"""


class IdempotencyError(Exception):
    """The root of every error of this library."""


class PolicyError(IdempotencyError, ValueError):
    """A policy that can't be met, or a configuration that contradicts itself. Means a mistake in the embedding code."""


class StoreError(IdempotencyError):
    """The root of what a store can say of itself."""


class StoreUnavailable(StoreError):
    """The store could not do this now, and may be able to later: locked, full, unreachable. Expected in normal use.

    ``landed`` tells what is known of the write that failed: ``False`` when it certainly did not take effect, ``None``
    when nobody can know before looking (the record's fence tells).
    """

    def __init__(self, message: str, *, landed: bool | None = False) -> None:
        super().__init__(message)
        self.landed = landed


class StoreUnusable(StoreUnavailable):
    """The store will not get better by itself: read-only, corrupt, foreign, or of a newer version. An operator's job.

    It is a :class:`StoreUnavailable`, since a call that meets it is refused the same way.
    """


class Unstorable(StoreUnavailable):
    """The store can't keep a value that it was given, now or later: a text with a lone surrogate, an integer of more
    than 64 bits, a type that it does not know. Nothing was written. Means a mistake in the calling code.

    It is a :class:`StoreUnavailable`, since a call that meets it is refused the same way, but a retry is of no use.
    """


class FenceRefused(StoreError):
    """The record has another owner by now, or is there before the operation that wrote none when it began, so nothing
    was written. Expected when a slow process outlives its lease, and when two processes run one operation (5.1).
    """


class OperationNotFound(IdempotencyError, LookupError):
    """There is no operation of this name, or several. Expected when an operator mistypes it, or it has expired."""


class NotHeld(IdempotencyError):
    """An operation can't be resolved, since it is not held or has changed meanwhile. Nothing was changed; expected when
    two operators are at work, or its server was only slow.
    """


class InvalidOutcome(IdempotencyError, ValueError):
    """An outcome does not fit the kind of call that it is given for. Nothing was changed; means a mistake of the
    operator or of the program that resolves.
    """


class StepMisuse(IdempotencyError, RuntimeError):
    """A handler's steps are not the same in every run, or not told apart. Means a mistake in the handler."""


class TransactionMisuse(IdempotencyError, RuntimeError):
    """A transaction's function did what it must not: control the transaction, await, outlive it, call a store, go on
    after its transaction was rolled back, or come twice in one keyed call. Means a mistake in the handler.
    """


class ConcurrentCalls(IdempotencyError, RuntimeError):
    """A handler, a step or something retried made a call while another call of its own was under way, so that their
    derived keys would not be the same in every run. Nothing was sent. Means a mistake in the calling code.
    """


class UnkeyedRetry(IdempotencyError, RuntimeError):
    """A failed call would have been made again without an idempotency key. It was made once. Means a mistake in the
    calling code.
    """
