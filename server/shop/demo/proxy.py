"""A TCP proxy that can really lose a reply: it forwards the request, and cuts the connection before the answer."""

import asyncio
import contextlib
from types import TracebackType

_PART = 64 * 1024


class Proxy:
    """A network between a client and a server. It forwards bytes both ways until it is told to withhold or cut."""

    def __init__(self, target: str = "") -> None:
        self.target = target
        """HOST:PORT of the server. It may change; existing connections stay with the server that they have."""
        self.address = ""
        """HOST:PORT for the client."""
        self.withheld = b""
        """The bytes that the server sent and the proxy did not forward."""
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
        """Withholds everything that the server sends from now on. Bytes of the client are still forwarded."""
        self.withheld = b""
        self._came.clear()
        self._withholding = True

    async def more_withheld(self) -> None:
        """Waits until the server has sent more bytes that were withheld."""
        await self._came.wait()
        self._came.clear()

    def cut(self) -> None:
        """Cuts every connection, so that the withheld bytes are lost. New connections are forwarded again."""
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
            pass  # the server is gone; the client's connection ends too
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
