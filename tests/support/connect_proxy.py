"""A hospital's proxy: it takes CONNECT, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class ConnectProxy:
    """One that runs. What it was asked for is in `asked`; a name and a password may be wanted, hosts may be refused."""

    credentials: str = ""
    refuses: bool = False
    port: int = 0
    asked: list[str] = field(default_factory=list)
    carried: int = 0
    """Bytes that went through it, both ways."""
    cuts: int = 0
    """How often it dropped all connections."""
    open: set[asyncio.StreamWriter] = field(default_factory=set)

    def cut(self) -> None:
        """Drop every connection at once, as a line does; called on the proxy's own loop."""
        self.cuts += 1
        for writer in self.open:
            writer.transport.abort()
        self.open.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii").split("\r\n")
        self.asked.append(head[0])
        method, target, _ = head[0].split(" ")
        wanted = f"Proxy-Authorization: Basic {base64.b64encode(self.credentials.encode()).decode()}"
        if self.credentials and wanted not in head:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n")
        elif self.refuses or method != "CONNECT":
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        else:
            host, _, port = target.rpartition(":")
            out_reader, out_writer = await asyncio.open_connection(host.strip("[]"), int(port))
            self.open |= {writer, out_writer}
            writer.write(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 hospital\r\n\r\n")
            await asyncio.gather(self.carry(reader, out_writer), self.carry(out_reader, writer))
            return
        await writer.drain()
        writer.close()

    async def carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                self.carried += len(data)
                target.write(data)
                await target.drain()
        target.close()
        self.open.discard(target)


@contextmanager
def connect_proxy(
    *, credentials: str = "", refuses: bool = False, cut_every: float | None = None
) -> Iterator[ConnectProxy]:
    """One on the loopback interface.

    Args:
        credentials: the NAME:PASSWORD that it wants.
        refuses: it connects nobody.
        cut_every: seconds after which it drops all connections, again and again.
    """
    proxy = ConnectProxy(credentials, refuses)
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def serve() -> None:
        server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
        proxy.port = server.sockets[0].getsockname()[1]
        ready.set()
        with suppress(asyncio.CancelledError):
            while cut_every:
                await asyncio.sleep(cut_every)
                proxy.cut()
            await asyncio.Event().wait()

    task = loop.create_task(serve())
    thread = threading.Thread(target=lambda: loop.run_until_complete(task), daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
