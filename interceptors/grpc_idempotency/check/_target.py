"""The server under test: connections to it, and calls of methods of any cardinality."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc

from grpc_idempotency.check._replies import Reply
from grpc_idempotency.check._results import Unreachable
from grpc_idempotency.check._settings import Metadata, Tls
from grpc_idempotency.check._types import Method

_OPTIONS = (
    # A connection of its own, so that it can be cut; no retries but those that a probe makes; replies of any size.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class Call:
    """A call that has been sent."""

    def __init__(self, call: Any, began: float) -> None:
        self._call = call
        self._began = began
        self._messages: list[bytes] = []

    def cancel(self) -> None:
        """Cancels the call, as a client does that goes away."""
        self._call.cancel()

    @property
    def ended(self) -> bool:
        """True if the answer has come."""
        return not self._call.is_active()

    def read(self) -> bool:
        """Waits for the next message. Returns False if the stream has ended."""
        with suppress(grpc.RpcError):
            for message in self._call:
                self._messages.append(message)
                return True
        return False

    def reply(self) -> Reply:
        """Waits for the end, and returns the reply."""
        while self.read():
            pass
        trailers = self._call.trailing_metadata() or ()
        return Reply(
            code=self._call.code().name,
            details=self._call.details() or "",
            messages=tuple(self._messages),
            trailers=tuple((name, value) for name, value in trailers),
            seconds=time.monotonic() - self._began,
        )


class Target:
    """A connection to a server."""

    def __init__(
        self, address: str, *, tls: Tls | None = None, authority: str = "", options: Sequence[tuple[str, Any]] = ()
    ) -> None:
        """Makes the connection when it is first used.

        Args:
            address: HOST:PORT, or ``unix:PATH``.
            tls: How to encrypt, or ``None``.
            authority: The server's name, if the address is that of a relay.
            options: More channel options, which go before the kit's own.
        """
        self.address = address
        self._how = "in plain text" if tls is None else "over TLS"
        given = {name for name, _ in options}
        every = [*options, *(one for one in _OPTIONS if one[0] not in given)]
        if authority:
            every.append(("grpc.default_authority", authority))
        if tls is None:
            self.channel = grpc.insecure_channel(address, every)
        else:
            ca, key, certificate = (_read(path) for path in (tls.ca, tls.key, tls.certificate))
            credentials = grpc.ssl_channel_credentials(ca, key, certificate)
            self.channel = grpc.secure_channel(address, credentials, every)

    def __enter__(self) -> "Target":
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def ready(self, within: float) -> None:
        """Waits until the server can be reached.

        Raises:
            Unreachable: It could not be reached in that many seconds.
        """
        try:
            grpc.channel_ready_future(self.channel).result(timeout=within)
        except grpc.FutureTimeoutError:
            raise Unreachable(f"No gRPC server answers on {self.address} {self._how}.") from None

    def start(
        self,
        method: Method,
        requests: Sequence[bytes],
        *,
        metadata: Metadata = (),
        timeout: float,
        broken_off: threading.Event | None = None,
    ) -> Call:
        """Sends a call.

        Args:
            method: The method.
            requests: Its messages.
            metadata: Its metadata.
            timeout: Its deadline in seconds.
            broken_off: If given, the last message and the request's end are not sent, and the event is set when the
                other messages were.
        """
        # On the wire a single message is a stream of one, so this is right for every cardinality.
        stub: Callable[..., Any] = self.channel.stream_stream(method.name)
        began = time.monotonic()
        ended = threading.Event()
        sent = iter(requests) if broken_off is None else _endless(requests[:-1], broken_off, ended)
        call = stub(sent, metadata=tuple(metadata), timeout=timeout)
        call.add_callback(ended.set)
        return Call(call, began)


@contextmanager
def workers(target: Target, number: int) -> Iterator[ThreadPoolExecutor]:
    """Yields threads that make calls to a target. After Ctrl-C no call is waited for, and none can be made."""
    with ThreadPoolExecutor(number) as pool:
        try:
            yield pool
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            target.channel.close()
            raise


def _read(path: str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


def _endless(requests: Sequence[bytes], sent: threading.Event, ended: threading.Event) -> Iterator[bytes]:
    yield from requests
    sent.set()
    ended.wait()
