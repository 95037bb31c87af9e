"""A TCP proxy that can lose a reply in truth: the request goes through, the connection is cut before the answer."""

import asyncio
import contextlib
from types import TracebackType

_PART = 64 * 1024


class Proxy:
    """Stands between a client and a server, as a network does; hands bytes on, both ways, until told otherwise."""

    def __init__(self, target: str) -> None:
        self.target = target
        """HOST:PORT of the server. May change; connections that are there stay where they are."""
        self.address = ""
        """HOST:PORT for the client."""
        self.withheld = b""
        """What the server sent and the proxy did not hand on."""
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._links: set[asyncio.Task[None]] = set()
        self._withholding = False
        self._came = asyncio.Event()

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._link, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._links, return_exceptions=True)

    def withhold(self) -> None:
        """From now on, nothing that the server sends reaches the client. What the client sends goes through."""
        self.withheld = b""
        self._came.clear()
        self._withholding = True

    async def more_withheld(self) -> None:
        """Waits until the server has sent something more that was withheld."""
        await self._came.wait()
        self._came.clear()

    def cut(self) -> None:
        """Cuts every connection; what was withheld is lost. New connections are handed on again."""
        self._withholding = False
        for writer in self._open:
            writer.transport.abort()

    async def _link(self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        link = asyncio.current_task()
        assert link is not None
        self._links.add(link)
        link.add_done_callback(self._links.discard)
        self._open.add(client)
        host, _, port = self.target.rpartition(":")
        server: asyncio.StreamWriter | None = None
        try:
            server_reader, server = await asyncio.open_connection(host, int(port))
            self._open.add(server)
            await asyncio.gather(
                self._hand_on(client_reader, server), self._hand_on(server_reader, client, replies=True)
            )
        except OSError:
            pass  # a server that is gone; the client's connection ends too
        finally:
            for writer in filter(None, (client, server)):
                writer.transport.abort()
                self._open.discard(writer)

    async def _hand_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool = False
    ) -> None:
        with contextlib.suppress(OSError):
            while part := await reader.read(_PART):
                if replies and self._withholding:
                    self.withheld += part
                    self._came.set()
                else:
                    writer.write(part)
                    await writer.drain()
        writer.transport.abort()
