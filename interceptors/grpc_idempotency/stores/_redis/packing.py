"""Converts the values of ``records.py`` to the store's packed values, in the layout of ``lua/common.lua``, and back."""

import itertools
import struct
from datetime import datetime, timedelta, timezone

from grpc_idempotency.records import Claim, Code, Effects, Fingerprint, Outcome, Record, Standing, State, Step
from grpc_idempotency.stores._calls.packing import packed, packed_request, unpacked, unpacked_request

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND = timedelta(milliseconds=1)
_STATES = (State.RUNNING, State.COMPLETED, State.HELD, State.WAITING, State.UNDOING)
_EFFECTS = (Effects.OPAQUE, Effects.TRANSACTIONAL, Effects.REPEATABLE)
_STREAMS, _RESOLVED, _REQUEST = 1, 2, 4
_RETAINED, _MESSAGE = 1, 2
_DIGEST = 32

# State, effects, flags, fence; end of the lease or delay, created, completed, expires; attempts, failed runs, failed
# undos; the lengths of method, digests, owner and reason, which follow in this order.
_HEAD = struct.Struct(">BBB16sddddIIIHBHI")
_ENDING = struct.Struct(">BBII")
_STEP = struct.Struct(">i?")
_RECORDED = struct.Struct(">dIi?")


def milliseconds(duration: timedelta) -> int:
    """Converts a duration to the store's unit. Returns at least 1, so that no lease ends before it began."""
    return max(1, duration // _MILLISECOND)


def delay_ms(delay: timedelta) -> int:
    """Converts a delay to the store's unit. No delay means due at once."""
    return milliseconds(delay) if delay else 0


def instant(ms: float) -> datetime:
    """Converts the store's time to a time."""
    return _EPOCH + timedelta(milliseconds=ms)


def at_ms(at: datetime) -> int:
    """The inverse of :func:`instant`."""
    return (at - _EPOCH) // _MILLISECOND


def draft(claim: Claim) -> bytes:
    """Packs the value of a first claim, without the times, which the script adds."""
    prints, method, owner = claim.fingerprint, claim.method.encode(), claim.owner.encode()
    digests = prints.raw if prints.canonical == prints.raw else prints.raw + prints.canonical
    flags = _STREAMS if claim.streams else 0
    effects = _EFFECTS.index(claim.effects)
    lengths = len(method), len(digests), len(owner), 0
    return _HEAD.pack(0, effects, flags, claim.fence, 0, 0, 0, 0, 1, 0, 0, *lengths) + method + digests + owner


def draft_request(claim: Claim) -> bytes:
    """Packs the request of a claim; empty if there is none."""
    return b"" if claim.request is None else packed_request(claim.request)


def ending(outcome: Outcome) -> bytes:
    """Packs an outcome or a failure. Equal ones are packed equally."""
    details, trailers, message = outcome.details.encode(), packed(outcome.trailers) or b"", outcome.message
    flags = (_RETAINED if outcome.retained else 0) + (0 if message is None else _MESSAGE)
    head = _ENDING.pack(int(outcome.status), flags, len(details), len(trailers))
    return b"".join((head, details, trailers, message or b""))


def _ended(data: bytes) -> Outcome:
    """The inverse of :func:`ending`."""
    status, flags, details_length, trailers_length = _ENDING.unpack_from(data)
    details_at = _ENDING.size + details_length
    trailers_at = details_at + trailers_length
    return Outcome(
        status=Code(status),
        message=data[trailers_at:] if flags & _MESSAGE else None,
        details=data[_ENDING.size : details_at].decode(),
        trailers=unpacked(data[details_at:trailers_at]),
        retained=bool(flags & _RETAINED),
    )


def record(name: bytes, value: bytes, now: int, request: bytes | None = None) -> Record:
    """Returns the record in a packed value, as of the time ``now``."""
    head = _HEAD.unpack_from(value)
    state, effects, flags, fence, till, created, completed, expires, attempts, failed_runs, failed_undos = head[:11]
    places = [_HEAD.size]
    for length in head[11:]:
        places.append(places[-1] + length)
    method, digests, owner, reason = (value[a:b] for a, b in itertools.pairwise(places))
    told = _ended(value[places[-1] :]) if len(value) > places[-1] else None
    done = _STATES[state] is State.COMPLETED
    return Record(
        name=name,
        method=method.decode(),
        state=_STATES[state],
        fence=fence,
        owner=owner.decode(),
        fingerprint=Fingerprint(raw=digests[:_DIGEST], canonical=digests[-_DIGEST:]),
        effects=_EFFECTS[effects],
        streams=bool(flags & _STREAMS),
        attempts=attempts,
        failed_runs=failed_runs,
        failed_undos=failed_undos,
        created_at=instant(created),
        lapsed=bool(till) and till <= now,
        completed_at=instant(completed) if done else None,
        expires_at=instant(expires) if done else None,
        remaining=timedelta(milliseconds=expires - now) if done else None,
        outcome=told if done else None,
        failure=None if done else told,
        reason=reason.decode(),
        resolved=bool(flags & _RESOLVED),
        request=None if request is None else unpacked_request(request),
    )


def has_request(value: bytes) -> bool:
    """True if the record in a packed value was claimed with a request."""
    return bool(_HEAD.unpack_from(value)[2] & _REQUEST)


def standing(head: bytes, now: int) -> Standing | None:
    """Returns the standing in the head of a packed value; ``None`` if the operation is absent."""
    if not head:
        return None
    state, _, _, fence, till, _, _, expires, *_ = _HEAD.unpack(head)
    if _STATES[state] is State.COMPLETED and expires <= now:
        return None
    return Standing(fence=fence, state=_STATES[state], lapsed=bool(till) and till <= now)


def step_draft(step: Step) -> bytes:
    """Packs a step without its name, its time and its place, which the script adds."""
    return _STEP.pack(step.position, step.undoable) + step.result


def steps(found: list[bytes]) -> list[Step]:
    """Returns the steps in the answer of the script ``steps``, in the order in which they were recorded."""
    pairs = [(_RECORDED.unpack_from(value), name, value) for name, value in zip(found[::2], found[1::2], strict=True)]
    pairs.sort(key=lambda pair: pair[0][1])
    return [
        Step(
            name=name.decode(),
            position=position,
            result=value[_RECORDED.size :],
            undoable=undoable,
            recorded_at=instant(recorded),
        )
        for (recorded, _, position, undoable), name, value in pairs
    ]
