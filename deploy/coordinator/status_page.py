"""Serve the study's status on a self-updating web page: `relay study status --serve`."""

from __future__ import annotations

import errno
import json
import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

from common.errors import RelayError

FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
AT_ONCE = 16
"""Connections that are open at the same time; a further one is closed at once."""
SECONDS = 10.0
"""Seconds for which a reader may send nothing before the connection is closed."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'"
    "; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def server(host: str, port: int, status: Callable[[], dict[str, Any]]) -> ThreadingHTTPServer:
    """Make a web server for the status page at / and for the status as JSON at /status.json.

    The caller starts the server with `serve_forever`. A request is answered only if its Host header is `host`, the
    address dialled or a name of the loopback interface. A foreign web page whose own name is made to lead here (DNS
    rebinding) therefore learns nothing.

    Args:
        host: the name or address at which the server listens.
        port: the port; 0: any free port.
        status: returns the content of /status.json; called from the threads of the server.

    Raises:
        RelayError: the address cannot be taken, or is no address of this machine.
    """
    folder = resources.files("deploy").joinpath("coordinator/status_page_files")
    files = {path: (folder.joinpath(name).read_bytes(), kind) for path, (name, kind) in FILES.items()}

    class Handler(BaseHTTPRequestHandler):
        timeout = SECONDS

        def do_GET(self) -> None:
            named = self.headers.get("Host", "").rsplit(":", 1)[0].strip("[]").lower()
            if named not in {host.lower(), "localhost", "127.0.0.1", "::1", self.connection.getsockname()[0]}:
                self._answer(403, b"This page answers under its own address alone.\n", "text/plain")
            elif self.path == "/status.json":
                self._answer(200, json.dumps(status()).encode(), "application/json")
            elif self.path in files:
                self._answer(200, *files[self.path])
            else:
                self._answer(404, b"There is nothing here.\n", "text/plain")

        def _answer(self, code: int, content: bytes, kind: str) -> None:
            self.send_response(code)
            for name, value in HEADERS.items():
                self.send_header(name, value)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Write no line about the page's readers."""

    try:
        return _Server((host, port), Handler)
    except (OSError, UnicodeError) as error:
        if isinstance(error, socket.gaierror | UnicodeError) or error.errno == errno.EADDRNOTAVAIL:
            raise RelayError(
                f"The page cannot be served at {host}:{port}: {host} is no name or address of this machine;"
                " correct it in --serve."
            ) from None
        raise RelayError(
            f"The page cannot be served at {host}:{port} ({error.strerror}); choose another port with --serve."
        ) from None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # with Python's 5, readers who come together wait whole seconds for their connection

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._free = threading.BoundedSemaphore(AT_ONCE)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a reader in a thread, while fewer than `AT_ONCE` readers are being answered."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer a reader, and then let another one in."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections closed by the reader, and report every other error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)
