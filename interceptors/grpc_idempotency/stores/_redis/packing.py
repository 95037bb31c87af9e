"""Converts the values of ``records.py`` to the store's packed values, in the layout of ``lua/common.lua``, and back."""

import functools
import itertools
import struct
import zlib
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone

from grpc_idempotency.records import Claim, Code, Effects, Fingerprint, Note, Outcome, Record, Standing, State, Step
from grpc_idempotency.stores._calls.packing import packed, packed_request, unpacked, unpacked_request

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND = timedelta(milliseconds=1)
_STATES = (State.RUNNING, State.COMPLETED, State.HELD, State.WAITING, State.UNDOING)
_EFFECTS = (Effects.OPAQUE, Effects.TRANSACTIONAL, Effects.REPEATABLE)
_STREAMS, _RESOLVED, _REQUEST = 1, 2, 4
_RETAINED, _MESSAGE = 1, 2
_DIGEST = 32

# State, effects, flags, fence; end of the lease or delay, created, completed, expires; attempts, failed runs, failed
# undos; the lengths of method, digests, owner, reason and trace context; the CRC-32 of the method. After the head come
# method, digests, trace context, owner, reason.
_HEAD = struct.Struct(">BBB16sddddIIIHBHIB4s")
_ENDING = struct.Struct(">BBII")
_STEP = struct.Struct(">i?")
_RECORDED = struct.Struct(">dIi?")
_NOTE = struct.Struct(">II")
_NOTED = struct.Struct(">dII")
# In the indexes: state, CRC-32 of the method, when it was created, name.
_LANE = 5
_AGE = 6
_LAST_MS = (1 << 8 * _AGE - 1) - 1


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


@functools.lru_cache(maxsize=4096)
def method_crc(method: str) -> bytes:
    """Returns the CRC-32 of a method's name, which stands for it in the indexes."""
    return zlib.crc32(method.encode()).to_bytes(4, "big")


def bound(at: datetime) -> bytes:
    """Returns the bound in the indexes between the operations that were created before a time, and the others.

    The store's times are whole milliseconds.
    """
    ms = -((_EPOCH - at) // _MILLISECOND)
    return min(max(ms, 0), _LAST_MS).to_bytes(_AGE, "big")


def place_of(at: datetime, name: bytes) -> bytes:
    """Returns the position of an operation among those of its state and method."""
    return at_ms(at).to_bytes(_AGE, "big") + name


def position(place: bytes) -> bytes:
    """Returns the age and the name in an entry of an index; entries of all states and methods are sorted by them."""
    return place[_LANE:]


def age_and_name(position: bytes) -> tuple[datetime, bytes]:
    """The inverse of :func:`place_of`."""
    return instant(int.from_bytes(position[:_AGE], "big")), position[_AGE:]


def states(wanted: Iterable[State]) -> bytes:
    """Packs states."""
    return bytes(map(_STATES.index, wanted))


def state(number: int) -> State:
    """Returns the state with this number."""
    return _STATES[number]


def draft_note(note: Note | None) -> bytes:
    """Packs an operator's note without the time, which the script adds; empty if there is none."""
    if note is None:
        return b""
    by, action = note.by.encode(), note.action.encode()
    return b"".join((_NOTE.pack(len(by), len(action)), by, action, note.reason.encode()))


def note(data: bytes) -> Note:
    """Returns the note in an answer of the script ``notes``."""
    at, by_length, action_length = _NOTED.unpack_from(data)
    action_at = _NOTED.size + by_length
    reason_at = action_at + action_length
    texts = data[_NOTED.size : action_at], data[action_at:reason_at], data[reason_at:]
    by, action, reason = (text.decode() for text in texts)
    return Note(at=instant(at), by=by, action=action, reason=reason)


def draft(claim: Claim) -> bytes:
    """Packs the value of a first claim, without the times, which the script adds."""
    prints, method, owner, trace = claim.fingerprint, claim.method.encode(), claim.owner.encode(), claim.trace
    digests = prints.raw if prints.canonical == prints.raw else prints.raw + prints.canonical
    flags = _STREAMS if claim.streams else 0
    effects = _EFFECTS.index(claim.effects)
    ends = len(method), len(digests), len(owner), 0, len(trace), method_crc(claim.method)
    head = _HEAD.pack(0, effects, flags, claim.fence, 0, 0, 0, 0, 1, 0, 0, *ends)
    return b"".join((head, method, digests, trace, owner))


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
    method_length, prints_length, owner_length, reason_length, trace_length, _ = head[11:]
    places = [_HEAD.size]
    for length in (method_length, prints_length, trace_length, owner_length, reason_length):
        places.append(places[-1] + length)
    method, digests, trace, owner, reason = (value[a:b] for a, b in itertools.pairwise(places))
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
        trace=trace,
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
