"""A relay between a client and a server, which cuts connections and loses replies."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from grpc_idempotency.check._settings import Tls

_PART = 64 * 1024
_HEAD = 9
"""Bytes of the head of an HTTP/2 frame (RFC 9113, 4.1)."""
_HEADERS, _RST_STREAM = 1, 3
_OF_A_REPLY = {0, _HEADERS, _RST_STREAM, 9}
"""The frames that a reply consists of: DATA, HEADERS, RST_STREAM, CONTINUATION."""
_END_STREAM = 1


class Relay:
    """Passes bytes on between clients on a free port of this host and a server."""

    def __init__(self, server: str, tls: Tls | None) -> None:
        self._server = server
        self._ssl = _context(tls)
        self._links: set[asyncio.Task[None]] = set()
        self._open: set[asyncio.StreamWriter] = set()
        self._losing = False
        self._listening = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve()), name="grpc-idempotency relay", daemon=True
        )
        self.lost = threading.Event()
        """Set when a whole reply was lost."""
        self.address = ""
        """HOST:PORT for clients."""

    def start(self) -> None:
        """Begins to listen."""
        self._thread.start()
        self._listening.wait()

    def stop(self) -> None:
        """Cuts every connection, and stops."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def cut(self) -> None:
        """Cuts every connection. New ones are relayed again."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result()

    def lose_a_reply(self) -> None:
        """Lets the server's next reply come to its end, and then cuts the connection in place of passing it on."""
        self.lost.clear()
        self._losing = True

    # In the loop's thread

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        listener = await asyncio.start_server(self._link, "127.0.0.1", 0)
        host, port = listener.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        self._listening.set()
        await self._stop.wait()
        listener.close()
        self._abort()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _cut(self) -> None:
        self._abort()

    def _abort(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _link(self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        link.add_done_callback(self._links.discard)
        self._open.add(client)
        server: asyncio.StreamWriter | None = None
        try:
            server_reader, server = await self._connect()
            self._open.add(server)
            await asyncio.gather(_pass_on(client_reader, server), self._pass_replies(server_reader, client))
        except OSError:
            pass  # the server is gone; the client's connection ends, too
        finally:
            for writer in filter(None, (client, server)):
                writer.transport.abort()
                self._open.discard(writer)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._server.startswith("unix:"):
            return await asyncio.open_unix_connection(self._server.removeprefix("unix:"), ssl=self._ssl)
        host, _, port = self._server.rpartition(":")
        return await asyncio.open_connection(host.strip("[]"), int(port), ssl=self._ssl)

    async def _pass_replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Passes frames on, or loses those of a reply."""
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(_HEAD)
                body = await reader.readexactly(int.from_bytes(head[:3], "big"))
                kind, flags = head[3], head[4]
                if self._losing and kind in _OF_A_REPLY:
                    if kind == _RST_STREAM or (kind == _HEADERS and flags & _END_STREAM):
                        self._losing = False
                        self.lost.set()
                        break
                    continue
                writer.write(head + body)
                await writer.drain()
        writer.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while part := await reader.read(_PART):
            writer.write(part)
            await writer.drain()
    writer.transport.abort()


def _context(tls: Tls | None) -> ssl.SSLContext | None:
    if tls is None:
        return None
    context = ssl.create_default_context(cafile=tls.ca)
    if tls.certificate:
        context.load_cert_chain(tls.certificate, tls.key)
    context.set_alpn_protocols(["h2"])
    return context


@contextmanager
def relayed(server: str, tls: Tls | None) -> Iterator[Relay]:
    """Relays to a server until the block ends."""
    relay = Relay(server, tls)
    relay.start()
    try:
        yield relay
    finally:
        relay.stop()
