"""Connect a hospital to the gateway by a proxy on the loopback interface, which adds the client certificate.

Flower's SuperNode cannot show a client certificate. The SuperNode talks TLS to this proxy, whose certificate is made
anew for each start, and the proxy talks mutual TLS to the coordinator's gateway. Bytes are passed on unchanged. The
proxy notes when either side was last heard and which trouble came last, so that the site can report troubles in plain
words.
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
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from common.text import duration
from deploy.pki.enrolment_files import dialled
from deploy.site.proxy import Proxy, ProxyRefused

CONNECT_WITHIN = 20.0
"""Seconds within which a connection to the gateway has to be made."""
PROXY_WITHIN = 15.0
"""Seconds of these within which the hospital's proxy has to let the site through."""
CHUNK = 1 << 16
"""The largest number of bytes passed on at once."""
MOST_AHEAD, MOST_BEHIND = 4.0, 290.0
"""Seconds by which a hospital's clock may differ from the coordinator's: Flower's SuperLink takes no request that is
signed more than 5 s in its future or more than 305 s in its past."""
SETTLE_WITHIN = 10.0
"""Seconds for which `Tunnel.stop` waits for the proxy's thread."""


@dataclass(frozen=True)
class Trouble:
    """Describe a trouble of the connection in plain words."""

    lasting: str
    """The sentence for a lasting trouble."""
    at_first: str = ""
    """The sentence for the first minute of a mostly short trouble; empty: `lasting` from the beginning."""


@dataclass
class Contact:
    """Hold the proxy's record of both sides; times are of `time.monotonic()`, and 0 means never."""

    last_request: float = 0.0
    """When the SuperNode last sent something."""
    heard: float = 0.0
    """When the coordinator last answered the SuperNode with status 200."""
    trouble: Trouble | None = None
    """The last trouble; None once the coordinator has answered with status 200 again."""


class Tunnel:
    """Run the proxy, in a thread of its own from `start` to `stop`.

    Args:
        host: the gateway's name, which its certificate must hold.
        port: the gateway's port.
        outward: the TLS settings towards the gateway: its authority and this site's certificate.
        inward: the TLS settings towards the SuperNode.
        proxy: the hospital's proxy, which is asked by CONNECT; None: the gateway is dialled directly.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        outward: ssl.SSLContext,
        inward: ssl.SSLContext,
        proxy: Proxy | None = None,
    ) -> None:
        self.host, self.gateway_port, self._outward, self._inward = host, port, outward, inward
        self._gateway = dialled(host, port)
        self._proxy = proxy
        self.contact = Contact()
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="tunnel", daemon=True)
        self._ready = threading.Event()
        self._over: asyncio.Event

    def start(self) -> None:
        """Listen on a free port of the loopback interface, which is in `port` afterwards."""
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
        """Pass on the bytes of a connection of the SuperNode's in both directions, until either side ends."""
        self.contact.last_request = time.monotonic()
        try:
            out_reader, out_writer = await asyncio.wait_for(self._dial(), CONNECT_WITHIN)
        except ProxyTrouble as error:
            self.contact.trouble = Trouble(str(error))
            writer.close()
            return
        except (OSError, ssl.SSLError, TimeoutError) as error:
            self.contact.trouble = Trouble(trouble_of(error, self._gateway))
            writer.close()
            return
        try:
            ways = (self._copy(reader, out_writer, self._sent), self._copy(out_reader, writer, self._came))
            tasks = [asyncio.ensure_future(way) for way in ways]
            # When one side ends, the connection of the other side is closed too.
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
        finally:
            for end in (writer, out_writer):
                end.close()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return an encrypted connection to the gateway, through the proxy if there is one.

        Raises:
            ProxyTrouble: the proxy does not make the connection.
            OSError: the gateway cannot be reached, or does not prove itself.
        """
        if self._proxy is None:
            return await asyncio.open_connection(self.host, self.gateway_port, ssl=self._outward)
        try:
            connection = await asyncio.wait_for(self._proxy.connect(self.host, self.gateway_port), PROXY_WITHIN)
        except (OSError, ProxyRefused) as error:
            raise ProxyTrouble(trouble_of_proxy(error, self._proxy, self._gateway)) from None
        return await asyncio.open_connection(sock=connection, ssl=self._outward, server_hostname=self.host)

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, note: object) -> None:
        assert callable(note)
        try:
            while data := await source.read(CHUNK):
                note(data)
                target.write(data)
                await target.drain()
        except (OSError, ssl.SSLError) as error:
            self.contact.trouble = Trouble(trouble_of(error, self._gateway))

    def _sent(self, _: bytes) -> None:
        self.contact.last_request = time.monotonic()

    def _came(self, data: bytes) -> None:
        """Note the status of an answer; later pieces of a long answer begin with no status and are ignored."""
        if not data.startswith(b"HTTP/1."):
            return
        status = data[9:12].decode("ascii", "replace")
        if status == "200":
            self.contact.heard, self.contact.trouble = time.monotonic(), None
        else:
            self.contact.trouble = trouble_of_status(status, data, self._gateway)


class ProxyTrouble(Exception):
    """The hospital's proxy does not make the connection; the text says why in plain words."""


def trouble_of_proxy(error: Exception, proxy: Proxy, gateway: str) -> str:
    """Explain why the hospital's proxy makes no connection.

    Args:
        error: an error of `Proxy.connect`.
        proxy: the proxy.
        gateway: HOST:PORT of the gateway.
    """
    named = f"the hospital's proxy {proxy.address} ({proxy.source})"
    if isinstance(error, ProxyRefused):
        if error.status == "407":
            return (
                f"{named[0].upper()}{named[1:]} wants a name and a password; write them into the site file:"
                f' proxy = "http://NAME:PASSWORD@{proxy.address}".'
            )
        said = f"HTTP {error.status}" if error.status else "an answer that is no HTTP"
        return (
            f"{named[0].upper()}{named[1:]} does not let this site through to {gateway} ({said}); ask those who run the"
            f" hospital's network to allow CONNECT to {gateway}."
        )
    if isinstance(error, socket.gaierror):
        return f"The name of {named} cannot be resolved; correct it."
    text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "no answer in time"
    return f"{named[0].upper()}{named[1:]} cannot be reached ({text}); correct it, or ask those who run the network."


def trouble_of(error: Exception, gateway: str) -> str:
    """Explain a failed or lost connection to the gateway, for the person in charge of the site's machine.

    Args:
        error: the error of the connection.
        gateway: HOST:PORT of the gateway.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = error.verify_message
        if "expired" in reason:
            return f"The certificate of the gateway {gateway} has expired; the coordinator has to renew it."
        if "not yet valid" in reason:
            return (
                f"The certificate of the gateway {gateway} is not valid yet by this machine's clock, which shows"
                f" {_at(time.time())}: this clock, or the coordinator's when the certificate was made, is wrong; set it"
                " right, or ask the coordinator for a new certificate."
            )
        return (
            f"What answers at {gateway} does not show the certificate that the kit names ({reason});"
            " ask the coordinator, and do not go on before it is understood. Where the hospital's network opens"
            f" encrypted connections to look inside (TLS inspection), it has to leave out {gateway}."
        )
    if isinstance(error, ssl.SSLError):
        return f"The gateway {gateway} ended the encrypted connection ({error.reason or 'no reason given'})."
    if isinstance(error, socket.gaierror):
        return f"The name of the gateway {gateway} cannot be resolved; is the network there?"
    if isinstance(error, TimeoutError):
        return f"The gateway {gateway} cannot be reached: no answer in time."
    # asyncio puts an address into the text of an error; the text of the error's number is clearer.
    text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
    return f"The gateway {gateway} cannot be reached ({text})."


def trouble_of_status(status: str, answer: bytes, gateway: str) -> Trouble:
    """Explain an answer of the gateway whose status is not 200.

    Args:
        status: the HTTP status.
        answer: the beginning of the answer, with its headers.
        gateway: HOST:PORT of the gateway.
    """
    apart = _clocks_apart(answer)
    if status == "400" and b"SSL certificate" in answer:
        return Trouble(
            f"The gateway {gateway} does not take this site's certificate: it has expired or was revoked;"
            " ask the coordinator."
            + (f" {apart}, and a certificate that is not valid yet is not taken either." if apart else "")
        )
    if status in ("502", "503", "504"):
        return Trouble(f"The gateway {gateway} answers, but the coordinator's engine behind it does not.")
    if status == "401" and apart:
        return Trouble(
            f"{apart}, and the coordinator takes no request signed at another time than its own; set right the clock"
            " that is wrong, and let both follow a time server."
        )
    if status == "401":
        return Trouble(
            "The coordinator does not know this site's key, or this machine's clock is wrong; ask the coordinator"
            " whether the site is still enrolled."
        )
    if status == "403":
        return Trouble(f"The gateway {gateway} rejected the request (HTTP 403).")
    # A coordinator has not registered the sites yet just after its start; a site's earlier session ends by itself.
    return Trouble(
        f"The coordinator does not admit this site (HTTP {status}): it is not enrolled there, or its last session has"
        " not ended yet; ask the coordinator whether the site is enrolled.",
        at_first=f"The gateway {gateway} answers; this site is waiting to be admitted by the coordinator.",
    )


def _clocks_apart(answer: bytes) -> str:
    """Compare this machine's clock with an answer's date, and return the beginning of a sentence; empty if they agree.

    Args:
        answer: the beginning of the answer, with its headers.
    """
    date = next((line[5:] for line in answer.split(b"\r\n") if line[:5].lower() == b"date:"), b"")
    with contextlib.suppress(ValueError):
        now, theirs = time.time(), parsedate_to_datetime(date.decode("ascii", "replace").strip()).timestamp()
        if not -MOST_BEHIND < now - theirs < MOST_AHEAD:
            side = "ahead of" if now > theirs else "behind"
            return (
                f"This machine's clock shows {_at(now)} and the coordinator's {_at(theirs)}: it is"
                f" {duration(abs(now - theirs))} {side} the coordinator's"
            )
    return ""


def _at(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def outward_context(ca_pem: str, certificate: Path, key: Path) -> ssl.SSLContext:
    """Return the TLS settings towards the gateway.

    Args:
        ca_pem: the kit's authority as PEM; no other authority is trusted.
        certificate: this site's certificate, as a PEM file.
        key: this site's private key, as a PEM file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=ca_pem)
    context.load_cert_chain(certificate, key)
    return context


def inward_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Return the TLS settings towards the SuperNode.

    Args:
        certificate: the proxy's certificate, as a PEM file.
        key: the proxy's private key, as a PEM file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context
