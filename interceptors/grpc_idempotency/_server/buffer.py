"""The stream buffer: the messages of a running server-stream, for all calls that follow it (4.3, 4.8).

Up to the limit, all messages are kept from the first one on: a call that joins later gets the part already sent, and
the whole stream is stored as the outcome. Beyond the limit only a window is kept, and the handler waits until the
followers have read on. So a stream of any length runs in bounded memory.
"""

from grpc_idempotency._wire.framing import LENGTH

WINDOW = 256 * 1024
"""How many bytes may wait for the slowest follower once the messages exceed the limit."""


class StreamBuffer:
    """The framed messages of a stream, and how far each follower has read.

    It neither waits nor locks: the wings do that.

    Args:
        limit: How many bytes of framed messages are kept whole.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._frames = bytearray()
        self._dropped = 0
        """How many bytes have been deleted from the beginning."""
        self._positions: dict[object, int] = {}

    @property
    def retained(self) -> bool:
        """True if every message from the first one on is still here, and within the limit."""
        return not self._dropped and len(self._frames) <= self._limit

    @property
    def full(self) -> bool:
        """True if the next message has to wait for a follower."""
        return not self.retained and bool(self._positions) and len(self._frames) > WINDOW

    def append(self, message: bytes) -> None:
        """Adds one more message."""
        self._frames += LENGTH.pack(len(message))
        self._frames += message
        self._drop()

    def join(self, follower: object) -> bool:
        """Adds a follower, which reads from the first message on.

        Returns:
            False if the first message is gone, so that it can't follow.
        """
        if not self.retained:
            return False
        self._positions[follower] = 0
        return True

    def leave(self, follower: object) -> None:
        """Removes a follower."""
        self._positions.pop(follower, None)
        self._drop()

    def read(self, follower: object) -> bytes | None:
        """Returns the follower's next message; ``None`` if there is none yet."""
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
        """Returns all messages, framed; ``None`` if they are not all retained."""
        return bytes(self._frames) if self.retained else None

    def _drop(self) -> None:
        """Deletes what every follower has read, once the stream exceeds the limit.

        Deletes large pieces at a time, since each deletion moves the rest.
        """
        if self.retained:
            return
        read_by_all = min(self._positions.values(), default=self._dropped + len(self._frames)) - self._dropped
        if read_by_all >= WINDOW // 2 or read_by_all == len(self._frames):
            del self._frames[:read_by_all]
            self._dropped += read_by_all
