"""Reach the gateway through the hospital's proxy: the site file's, or that of the environment."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from common.errors import BadConfiguration
from deploy.pki.enrolment_files import dialled

CONNECT_WITHIN = 10.0
"""Seconds within which each address of a proxy has to take a connection."""
LONGEST_ANSWER = 65_536
"""Bytes of the longest answer of a proxy to CONNECT."""
NONE = "none"
"""The value of `proxy` in a site file that uses none, whatever the environment says."""


class ProxyRefused(Exception):
    """A proxy answered CONNECT with another status than 200.

    Attributes:
        status: the HTTP status; empty if the answer is no HTTP.
    """

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True)
class Proxy:
    """Describe an HTTP proxy that takes CONNECT."""

    host: str
    port: int
    credentials: str = ""
    """NAME:PASSWORD; empty if the proxy asks for none."""
    source: str = "site.toml"
    """Where the proxy is named."""

    @property
    def address(self) -> str:
        """Return HOST:PORT."""
        return dialled(self.host, self.port)

    async def connect(self, host: str, port: int) -> socket.socket:
        """Return a connection through the proxy, on which nothing has been said yet.

        Args:
            host: the name to be dialled by the proxy.
            port: the port to be dialled by the proxy.

        Raises:
            OSError: the proxy cannot be reached.
            ProxyRefused: the proxy does not make the connection.
        """
        loop = asyncio.get_running_loop()
        address = self.host, self.port
        connection = await loop.run_in_executor(None, socket.create_connection, address, CONNECT_WITHIN)
        try:
            connection.setblocking(False)
            request = f"CONNECT {dialled(host, port)} HTTP/1.1\r\nHost: {dialled(host, port)}\r\n"
            if self.credentials:
                secret = base64.b64encode(self.credentials.encode()).decode("ascii")
                request += f"Proxy-Authorization: Basic {secret}\r\n"
            await loop.sock_sendall(connection, f"{request}\r\n".encode())
            answer = b""
            # The gateway says nothing before this end has, so that nothing of its own can follow the answer.
            while b"\r\n\r\n" not in answer:
                part = await loop.sock_recv(connection, 4096)
                answer += part
                if not part or len(answer) > LONGEST_ANSWER:
                    raise ProxyRefused("")
            words = answer.split(b"\r\n", 1)[0].decode("ascii", "replace").split()
            status = words[1] if len(words) > 1 and words[0].startswith("HTTP/") else ""
            if status != "200":
                raise ProxyRefused(status)
        except BaseException:
            connection.close()
            raise
        return connection


def proxy_of(written: str, host: str, environment: Mapping[str, str] | None = None) -> Proxy | None:
    """Return the proxy through which a host is dialled; None for no proxy.

    Args:
        written: `proxy` of the site file: a URL, "none", or an empty text for the environment's HTTPS_PROXY, unless
            NO_PROXY names the host.
        host: the host to be dialled.
        environment: the environment; default: this process's.

    Raises:
        BadConfiguration: the proxy is none that can be used.
    """
    if written == NONE:
        return None
    if written:
        return _parse(written, "proxy in site.toml")
    names = os.environ if environment is None else environment
    found = next((names[name] for name in ("https_proxy", "HTTPS_PROXY") if names.get(name)), "")
    spared = next((names[name] for name in ("no_proxy", "NO_PROXY") if names.get(name)), "")
    if not found or urllib.request.proxy_bypass_environment(host, {"no": spared}):  # type: ignore[attr-defined]
        return None
    return _parse(found, "HTTPS_PROXY")


def _parse(written: str, source: str) -> Proxy:
    url = urllib.parse.urlsplit(written if "://" in written else f"http://{written}")
    try:
        port = url.port or 80
    except ValueError:
        port = 0
    if url.scheme != "http" or not url.hostname or not port:
        shown = f"{url.scheme}://…" if "@" in written else written  # a password is never printed
        raise BadConfiguration(
            f'{source[0].upper()}{source[1:]} is "{shown}", and no proxy that relay can use; write one such as'
            ' http://proxy.hospital.org:3128, or "none" in the site file.'
        )
    name, password = (urllib.parse.unquote(part or "") for part in (url.username, url.password))
    return Proxy(url.hostname, port, f"{name}:{password}" if name else "", source)
