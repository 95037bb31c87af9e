"""The messages of a server-stream, as its handler sends them and for all who follow (4.3, 4.8).

What fits within the limit stays from the first message on: whoever comes later gets the part already sent, and the
whole is kept as the outcome. Beyond the limit only a window is left, and the handler is held back until those who
follow have read on, so that a stream of any length runs in bounded memory.
"""

from grpc_idempotency._wire.framing import LENGTH

WINDOW = 256 * 1024
"""How many bytes may wait for the slowest follower when not all are kept any more."""


class StreamBuffer:
    """Messages, framed one behind another, and how far each follower has read.

    It neither waits nor locks: that is the shells' affair.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._frames = bytearray()
        self._dropped = 0
        """How many bytes have gone from the beginning."""
        self._positions: dict[object, int] = {}

    @property
    def retained(self) -> bool:
        """Whether every message from the first on is still there, and may be kept."""
        return not self._dropped and len(self._frames) <= self._limit

    @property
    def full(self) -> bool:
        """Whether the next message has to wait for a follower."""
        return not self.retained and bool(self._positions) and len(self._frames) > WINDOW

    def append(self, message: bytes) -> None:
        """One more message."""
        self._frames += LENGTH.pack(len(message))
        self._frames += message
        self._drop()

    def join(self, follower: object) -> bool:
        """Begins to follow, from the first message on; ``False`` when that one is gone."""
        if not self.retained:
            return False
        self._positions[follower] = 0
        return True

    def leave(self, follower: object) -> None:
        """Ends following."""
        self._positions.pop(follower, None)
        self._drop()

    def read(self, follower: object) -> bytes | None:
        """The follower's next message, or ``None`` where there is none yet."""
        at = self._positions[follower] - self._dropped
        if at == len(self._frames):
            return None
        (length,) = LENGTH.unpack_from(self._frames, at)
        at += LENGTH.size
        message = bytes(self._frames[at : at + length])
        self._positions[follower] = self._dropped + at + length
        self._drop()
        return message

    def whole(self) -> bytes | None:
        """All messages, framed; ``None`` when they are not all retained."""
        return bytes(self._frames) if self.retained else None

    def _drop(self) -> None:
        """Forgets what every follower has read, once the whole can't be kept anyway; in steps worth a move."""
        if self.retained:
            return
        read_by_all = min(self._positions.values(), default=self._dropped + len(self._frames)) - self._dropped
        if read_by_all >= WINDOW // 2 or read_by_all == len(self._frames):
            del self._frames[:read_by_all]
            self._dropped += read_by_all
