"""A cheap gRPC client: unary calls over one HTTP/2 connection, as fast as replies come in.

gRPC's own Python client needs about as much time for a call as the measured server, so it would be the bottleneck. This
client implements the part of HTTP/2 that a gRPC server uses, fails on anything else, and reads every reply.
"""

import asyncio
import struct
import time
from collections.abc import Callable

import hpack

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 0x1
_END_HEADERS, _PADDED, _PRIORITY = 0x4, 0x8, 0x20
_FRAME = struct.Struct(">HBBBI")  # length (its high and low part), type, flags, stream
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_INITIAL_WINDOW = 65_535
_LARGEST_WINDOW = (1 << 31) - 1
_SETTING_INITIAL_WINDOW = 4


class LoadError(Exception):
    """The measurement can't continue: the connection broke, or the server uses HTTP/2 in an unsupported way."""


class Call:
    """One call, and its reply once it has come."""

    __slots__ = ("body", "ended", "headers", "key", "started")

    def __init__(self, key: str | None) -> None:
        self.key = key
        self.started = self.ended = 0.0
        self.body = b""
        self.headers: dict[bytes, bytes] = {}
        """Initial and trailing metadata."""


class Connection(asyncio.Protocol):
    """Makes calls, one after the other in each of its callers, until ``next_call`` returns none.

    Without callers it makes those that it is told to start, until it is closed.
    """

    def __init__(
        self,
        method: str,
        request: bytes,
        *,
        callers: int,
        next_call: Callable[[], Call | None],
        ended: Callable[[Call], None],
    ) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._next_call = next_call
        self._ended = ended
        self._callers = callers
        self._message = struct.pack(">?I", False, len(request)) + request
        self._head = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "grpc-idempotency-bench"),
        ]
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
        self._block = b""
        self._window = _INITIAL_WINDOW
        self._received = 0
        self._stream = 1
        self._calls: dict[int, Call] = {}
        self._unread = b""
        self._outgoing: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    def start(self, call: Call) -> None:
        """Begins a call."""
        self._send(call)
        self._flush()

    def close(self) -> None:
        """Closes the connection. No call may be under way."""
        assert self._transport is not None
        self.closed.set_result(None)
        self._transport.close()

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        window = struct.pack(">HI", _SETTING_INITIAL_WINDOW, _LARGEST_WINDOW)
        self._outgoing += [_PREFACE, _frame(_SETTINGS, 0, 0, window)]
        self._outgoing.append(_frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _LARGEST_WINDOW - _INITIAL_WINDOW)))
        for _ in range(self._callers):
            self._begin()
        self._flush()

    def data_received(self, data: bytes) -> None:
        try:
            self._read(data)
        except Exception as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or LoadError("the server closed the connection"))

    def _fail(self, error: Exception) -> None:
        if not self.closed.done():
            self.closed.set_exception(error)
        if self._transport is not None:
            self._transport.abort()

    # Frames

    def _read(self, data: bytes) -> None:
        data = self._unread + data
        at, end = 0, len(data)
        while end - at >= 9:
            high, low, kind, flags, stream = _FRAME.unpack_from(data, at)
            length = high << 8 | low
            if end - at - 9 < length:
                break
            self._frame(kind, flags, stream, data[at + 9 : at + 9 + length])
            at += 9 + length
        self._unread = data[at:]
        self._flush()

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _HEADERS:
            if flags & (_END_HEADERS | _PADDED | _PRIORITY) != _END_HEADERS:
                raise LoadError(f"HEADERS with flags {flags:#x}")
            self._calls[stream].headers.update(self._decoder.decode(payload, raw=True))
        elif kind == _DATA:
            if flags & _PADDED:
                raise LoadError("a padded DATA frame")
            self._calls[stream].body += payload
            self._credit(len(payload))
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
        elif kind in (_SETTINGS, _PING):
            if not flags & _ACK:
                self._outgoing.append(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        elif kind == _RST_STREAM:
            raise LoadError(f"the server reset a call: HTTP/2 error {int.from_bytes(payload, 'big')}")
        elif kind == _GOAWAY:
            raise LoadError(f"the server is leaving: {payload[8:].decode(errors='replace')}")
        if flags & _END_STREAM and kind in (_HEADERS, _DATA):
            self._end(self._calls.pop(stream))

    def _credit(self, size: int) -> None:
        self._received += size
        if self._received > _LARGEST_WINDOW // 2:
            self._outgoing.append(_frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received)))
            self._received = 0

    def _flush(self) -> None:
        if self._outgoing and self._transport is not None:
            self._transport.write(b"".join(self._outgoing))
            self._outgoing.clear()

    # Calls

    def _begin(self) -> None:
        call = self._next_call()
        if call is None:
            self._callers -= 1
            if not self._callers and not self.closed.done():
                self.close()
            return
        self._send(call)

    def _send(self, call: Call) -> None:
        self._window -= len(self._message)
        if self._window < 0:
            raise LoadError("the server gives no room for requests")
        self._outgoing += [
            _frame(_HEADERS, _END_HEADERS, self._stream, self._headers(call.key)),
            _frame(_DATA, _END_STREAM, self._stream, self._message),
        ]
        self._calls[self._stream] = call
        self._stream += 2
        call.started = time.perf_counter()

    def _headers(self, key: str | None) -> bytes:
        """Encodes the headers, which the server's table has after the first call, and the key in full."""
        if not self._block:
            first = self._encoder.encode(self._head)
            self._block = self._encoder.encode(self._head)
            return first + _literal(key)
        return self._block + _literal(key)

    def _end(self, call: Call) -> None:
        call.ended = time.perf_counter()
        self._ended(call)
        if self._callers:
            self._begin()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _FRAME.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def _literal(key: str | None) -> bytes:
    """Encodes the key as a header without indexing (RFC 7541, 6.2.2), and without Huffman coding."""
    if key is None:
        return b""
    return b"\x00\x0fidempotency-key" + bytes([len(key)]) + key.encode()
