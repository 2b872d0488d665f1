"""Serve pages of this machine to a browser, each under the machine's own address alone."""

from __future__ import annotations

import errno
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from common.errors import RelayError

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
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Handler(BaseHTTPRequestHandler):
    """Answer a reader's requests; nothing is logged."""

    timeout = SECONDS

    def do_GET(self) -> None:
        """Answer a GET request."""
        self.get()

    def do_POST(self) -> None:
        """Answer a POST request."""
        self.post()

    def get(self) -> None:
        """Answer a GET request; nothing is there by default."""
        self.answer(404, b"There is nothing here.\n", "text/plain")

    def post(self) -> None:
        """Answer a POST request; nothing is taken by default."""
        self.answer(405, b"Nothing can be sent here.\n", "text/plain")

    def is_dialled(self, host: str = "127.0.0.1") -> bool:
        """Return whether the request's Host header is a name or address of this server.

        A foreign web page whose own name is made to lead here (DNS rebinding) does not pass.

        Args:
            host: the name or address at which the server listens.
        """
        named = self.headers.get("Host", "").rsplit(":", 1)[0].strip("[]").lower()
        return named in {host.lower(), *LOOPBACK, self.connection.getsockname()[0]}

    def answer(self, code: int, content: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        """Send an answer.

        Args:
            code: the HTTP status.
            content: the body.
            kind: the body's media type; text is UTF-8.
            headers: further headers, or others in the place of those of `HEADERS`.
        """
        self.send_response(code)
        for name, value in {**HEADERS, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Write no line about the page's readers."""


class Server(ThreadingHTTPServer):
    """Answer each reader in a thread, `AT_ONCE` readers at a time."""

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


def listen(host: str, port: int, handler: type[Handler], option: str) -> Server:
    """Make a server; the caller starts it with `serve_forever`.

    Args:
        host: the name or address at which the server listens.
        port: the port; 0: any free port.
        handler: answers the requests.
        option: the command's option for the address, for errors.

    Raises:
        RelayError: the address cannot be taken, or is no address of this machine.
    """
    try:
        return Server((host, port), handler)
    except (OSError, UnicodeError) as error:
        if isinstance(error, socket.gaierror | UnicodeError) or error.errno == errno.EADDRNOTAVAIL:
            raise RelayError(
                f"The page cannot be served at {host}:{port}: {host} is no name or address of this machine;"
                f" correct it in {option}."
            ) from None
        raise RelayError(
            f"The page cannot be served at {host}:{port} ({error.strerror}); choose another port with {option}."
        ) from None
