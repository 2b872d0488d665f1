"""Somebody in the gateway's place who writes down what hospitals and coordinator say to each other inside TLS."""

from __future__ import annotations

import http.client
import ssl
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from deploy.coordinator.folder import Coordinator


@dataclass(frozen=True)
class Exchange:
    """One request of a hospital's, and what it was answered."""

    site: str
    """As its certificate says."""
    path: str
    headers: str
    request: bytes
    status: int
    response: bytes


class Recorder:
    """Listens where the hospitals expect the gateway, with the gateway's certificate, and hands all on unchanged."""

    def __init__(self, coordinator: Coordinator, port: int) -> None:
        self.exchanges: list[Exchange] = []
        self._superlink = coordinator.settings().superlink
        gateway = coordinator.gateway
        self._outward = ssl.create_default_context(cafile=gateway / "server-ca.crt")
        inward = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        inward.load_cert_chain(gateway / "server.crt", gateway / "server.key")
        inward.load_verify_locations(gateway / "clients-ca.crt")
        inward.verify_mode = ssl.CERT_REQUIRED
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                self.request.do_handshake()
                super().setup()
                self.upstream = http.client.HTTPSConnection(recorder._superlink, context=recorder._outward)

            def do_POST(self) -> None:
                recorder._pass_on(self)

            def finish(self) -> None:
                self.upstream.close()
                super().finish()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("localhost", port), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        # The handshake is the connection's own thread's, or one that waits would hold up all others.
        self._server.socket = inward.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def _pass_on(self, asked: Any) -> None:
        body = asked.rfile.read(int(asked.headers["content-length"]))
        asked.upstream.request("POST", asked.path, body, dict(asked.headers.items()))
        answer = asked.upstream.getresponse()
        content = answer.read()
        names = dict(pair for part in asked.connection.getpeercert()["subject"] for pair in part)
        self.exchanges.append(
            Exchange(names["commonName"], asked.path, str(asked.headers), body, answer.status, content)
        )
        asked.send_response(answer.status)
        for name in ("content-type", "retry-after"):
            if value := answer.getheader(name):
                asked.send_header(name, value)
        asked.send_header("content-length", str(len(content)))
        asked.end_headers()
        asked.wfile.write(content)

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
