"""A relay between a client and a server, which cuts connections and loses answers."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

Address = str | tuple[str, int]
"""The path of a Unix socket, or host and port."""


class Relay:
    """Listens on a free port of this host, and passes bytes on to a server and back."""

    def __init__(self, server: Address) -> None:
        self.server = server
        """The server to which new connections lead."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.loses_answers = False
        """True if answers of the server are dropped, and the connection is cut instead."""
        self.loses_in = 0
        """If it is 1, that happens to the next answer alone; if it is 2, to the one after that; and so on."""
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Cuts all connections."""
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):  # it was closed
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX if isinstance(self.server, str) else socket.AF_INET)
                far.connect(self.server)
                self._open += [near, far]
                for source, sink, answers in ((near, far, False), (far, near, True)):
                    threading.Thread(target=self._pass_on, args=(source, sink, answers), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while (data := source.recv(1 << 16)) and not (answers and self._loses()):
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        if answers:
            source.close()
            sink.close()

    def _loses(self) -> bool:
        if self.loses_in:
            self.loses_in -= 1
            return not self.loses_in
        return self.loses_answers


@contextmanager
def relayed(server: Address) -> Iterator[Relay]:
    """Relays to a server until the block ends."""
    relay = Relay(server)
    try:
        yield relay
    finally:
        relay.close()
