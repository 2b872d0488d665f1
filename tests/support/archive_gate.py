"""What stands before a hospital's archive: TLS with an authority of its own, and a token that it asks for."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Answer = Callable[[str], tuple[int, bytes, str] | None]
"""From a path, what is answered in the archive's place: status, content, its type; None to pass the request on."""


class Gate:
    """A server on this machine that passes requests on to another, or answers them itself."""

    def __init__(
        self, behind: str = "", *, folder: Path | None = None, token: str = "", answer: Answer = lambda path: None
    ) -> None:
        self.behind, self.token, self.answer = behind, token, answer
        self.paths: list[str] = []
        gate = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.pass_on()

            def do_POST(self) -> None:
                self.pass_on()

            def log_message(self, *_: object) -> None:
                pass

            def pass_on(self) -> None:
                status, content, kind = gate.reply(self)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.authority = folder / "authority.pem" if folder else None
        if folder:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(write_certificate(folder / "authority.pem"))
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"http{'s' if folder else ''}://127.0.0.1:{self.server.server_port}/dicom-web"

    def reply(self, handler: BaseHTTPRequestHandler) -> tuple[int, bytes, str]:
        self.paths.append(handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0)) or None
        if self.token and handler.headers.get("Authorization") != f"Bearer {self.token}":
            return 401, b"", "text/plain"
        if (own := self.answer(handler.path)) is not None:
            return own
        kept = {name: handler.headers[name] for name in ("Accept", "Content-Type") if name in handler.headers}
        request = urllib.request.Request(self.behind + handler.path, data=body, headers=kept)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
                return answer.status, answer.read(), answer.headers.get("Content-Type", "")
        except urllib.error.HTTPError as error:
            return error.code, error.read(), "text/plain"

    def __enter__(self) -> Gate:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()


def write_certificate(path: Path) -> Path:
    """Write a key and a certificate for 127.0.0.1 that signs itself, into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "archive")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(key.private_bytes(*form) + made.public_bytes(serialization.Encoding.PEM))
    return path
