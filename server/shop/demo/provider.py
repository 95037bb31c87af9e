"""A payment provider that charges each card that it is told to charge, and never gets round to answering."""

import asyncio
from types import TracebackType


class Provider:
    """A server for lines of text. Each line is a charge."""

    def __init__(self) -> None:
        self.address = ""
        self.charges: list[str] = []
        """All charges so far."""
        self._server: asyncio.Server | None = None
        self._charged = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> "Provider":
        self._server = await asyncio.start_server(self._charge, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._open:
            writer.transport.abort()

    async def charged(self) -> None:
        """Waits for the first charge."""
        await self._charged.wait()

    async def _charge(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        self.charges.append((await reader.readline()).decode().strip())
        self._charged.set()
