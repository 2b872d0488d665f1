"""The hospital's end of the door: a proxy on the loopback interface that adds the client certificate.

Flower's SuperNode can show no client certificate. It talks TLS to this proxy, under a certificate made for this one
start, and the proxy talks mutual TLS to the coordinator's gateway. Bytes are passed on as they are. On the way the
proxy notes when it last heard from either side and what went wrong, so that the site can say it in plain words.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path

CONNECT_WITHIN = 20.0
CHUNK = 1 << 16
SETTLE_WITHIN = 10.0


@dataclass(frozen=True)
class Trouble:
    """What is wrong, in plain words."""

    lasting: str
    at_first: str = ""
    """What to say instead in the first minute of a trouble that mostly ends by then."""


@dataclass
class Contact:
    """What the proxy has seen; times are `time.monotonic()`, 0 for never."""

    asked: float = 0.0
    """The SuperNode last sent something."""
    heard: float = 0.0
    """The coordinator last answered the SuperNode as it should."""
    trouble: Trouble | None = None
    """What went wrong last; None once the coordinator has answered again."""


class Tunnel:
    """The proxy, in a thread of its own from `start` to `stop`.

    Args:
        host: the gateway's name, which its certificate must hold; `port` its port.
        outward: the TLS settings towards the gateway: the authority it must be of, this site's certificate.
        inward: the TLS settings towards the SuperNode.
    """

    def __init__(self, host: str, port: int, *, outward: ssl.SSLContext, inward: ssl.SSLContext) -> None:
        self.host, self.gateway_port, self._outward, self._inward = host, port, outward, inward
        self.contact = Contact()
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="tunnel", daemon=True)
        self._ready = threading.Event()
        self._over: asyncio.Event

    def start(self) -> None:
        """Listen on a free port of the loopback interface: `port` afterwards."""
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """End all connections."""
        self._loop.call_soon_threadsafe(lambda: self._over.set())
        self._thread.join(SETTLE_WITHIN)

    def _serve(self) -> None:
        async def serve() -> None:
            self._over = asyncio.Event()
            server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0, ssl=self._inward)
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()
            await self._over.wait()
            server.close()

        try:
            self._loop.run_until_complete(serve())
        finally:
            self._ready.set()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the SuperNode's, to its end."""
        self.contact.asked = time.monotonic()
        try:
            out_reader, out_writer = await asyncio.wait_for(
                asyncio.open_connection(self.host, self.gateway_port, ssl=self._outward), CONNECT_WITHIN
            )
        except (OSError, ssl.SSLError, TimeoutError) as error:
            self.contact.trouble = Trouble(trouble_of(error, f"{self.host}:{self.gateway_port}"))
            writer.close()
            return
        try:
            ways = (self._copy(reader, out_writer, self._sent), self._copy(out_reader, writer, self._came))
            tasks = [asyncio.ensure_future(way) for way in ways]
            # Whichever side ends first, the other has nobody left to talk to.
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
        finally:
            for end in (writer, out_writer):
                end.close()

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, note: object) -> None:
        assert callable(note)
        try:
            while data := await source.read(CHUNK):
                note(data)
                target.write(data)
                await target.drain()
        except (OSError, ssl.SSLError) as error:
            self.contact.trouble = Trouble(trouble_of(error, f"{self.host}:{self.gateway_port}"))

    def _sent(self, _: bytes) -> None:
        self.contact.asked = time.monotonic()

    def _came(self, data: bytes) -> None:
        """Each answer begins with its status; what follows of a long one is of no interest."""
        if not data.startswith(b"HTTP/1."):
            return
        status = data[9:12].decode("ascii", "replace")
        if status == "200":
            self.contact.heard, self.contact.trouble = time.monotonic(), None
        else:
            self.contact.trouble = trouble_of_status(status, data, f"{self.host}:{self.gateway_port}")


def trouble_of(error: Exception, gateway: str) -> str:
    """Why a connection to the gateway could not be made or held, for who keeps the site's machine."""
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message
        if "expired" in reason:
            return f"The certificate of the gateway {gateway} has expired; the coordinator has to renew it."
        if "not yet valid" in reason:
            return f"The certificate of the gateway {gateway} is not valid yet; is this machine's clock right?"
        return (
            f"What answers at {gateway} does not show the certificate that the kit names ({reason});"
            " ask the coordinator, and do not go on before it is understood."
        )
    if isinstance(error, ssl.SSLError):
        return f"The gateway {gateway} ended the encrypted connection ({error.reason or 'no reason given'})."
    if isinstance(error, socket.gaierror):
        return f"The name of the gateway {gateway} cannot be resolved; is the network there?"
    if isinstance(error, TimeoutError):
        return f"The gateway {gateway} cannot be reached: no answer in time."
    # asyncio puts an address of its own into the text of an error; its number says it better.
    text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
    return f"The gateway {gateway} cannot be reached ({text})."


def trouble_of_status(status: str, answer: bytes, gateway: str) -> Trouble:
    """Return what an answer other than 200 means."""
    if status == "400" and b"SSL certificate" in answer:
        return Trouble(
            f"The gateway {gateway} does not take this site's certificate: it has expired or was revoked;"
            " ask the coordinator."
        )
    if status in ("502", "503", "504"):
        return Trouble(f"The gateway {gateway} answers, but the coordinator's engine behind it does not.")
    if status == "401":
        return Trouble(
            "The coordinator does not know this site's key, or this machine's clock is wrong; ask the coordinator"
            " whether the site is still enrolled."
        )
    if status == "403":
        return Trouble(f"The gateway {gateway} rejected the request (HTTP 403).")
    # A coordinator that was just started does not know yet who is enrolled; a site's earlier session ends by itself.
    return Trouble(
        f"The coordinator does not admit this site (HTTP {status}): it is not enrolled there, or its last session has"
        " not ended yet; ask the coordinator whether the site is enrolled.",
        at_first=f"The gateway {gateway} answers; this site is waiting to be admitted by the coordinator.",
    )


def outward_context(ca_pem: str, certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS towards the gateway: its authority is the kit's alone, and this site shows its certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=ca_pem)
    context.load_cert_chain(certificate, key)
    return context


def inward_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS towards the SuperNode."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context
