"""Bring a hospital's own page to a browser on the same machine: `relay site serve`.

The server listens on the loopback interface alone. Other users of the machine can dial it too, so each path begins with
a token that is drawn anew for each start and printed with the address: without it there is nothing to be seen or done.
The page brings no script, and nothing comes from elsewhere.
"""

from __future__ import annotations

import os
import secrets
import sys
import threading
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from email import message_from_bytes
from http import HTTPStatus
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from client.site_config import load_site
from common.errors import RelayError
from deploy.site.page import Page
from deploy.web_page import Handler, Server, listen

LARGEST = 1_000_000
"""The largest body of a request, in bytes: a study's file has a few thousand."""
POLICY = "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
STORED_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; base-uri 'none'"
"""For the pages that relay wrote to the disk, whose styles and pictures stand in the page."""


def serve(path: Path, relay: Sequence[str], *, port: int = 0, opens: bool = True) -> int:
    """Serve a hospital's page until Ctrl-C.

    Args:
        path: the site's file.
        relay: the words by which `relay` is called.
        port: the port; 0: any free port.
        opens: open the page in a browser, if this machine has a screen.

    Returns:
        The exit code, 0.

    Raises:
        RelayError: the site's file is wrong, or the port is taken.
    """
    site = load_site(path)
    if site.pooled:
        raise RelayError("The pooled site belongs to no hospital and has no page; name a hospital's own file.")
    token = secrets.token_urlsafe(24)
    with closing(Page(path, f"/{token}/", relay)) as page, server(page, token, port=port) as here:
        address = f"http://127.0.0.1:{here.server_address[1]}/{token}/"
        print(f"Site {site.name}, for this machine alone: {address}\nCtrl-C ends it.", flush=True)
        if opens and (sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        with suppress(KeyboardInterrupt):
            here.serve_forever()
    print("The page has ended; what runs at the site goes on.")
    return 0


def server(page: Page, token: str, *, port: int = 0) -> Server:
    """Make the server of a page; the caller starts it with `serve_forever`.

    Args:
        page: the page.
        token: the first part of each path.
        port: the port; 0: any free port.

    Raises:
        RelayError: the port is taken.
    """
    css = resources.files("deploy").joinpath("site/page_files/page.css").read_text(encoding="utf-8")
    views: dict[str, Callable[[str], str | None]] = {
        "": lambda _: page.home(),
        "check": lambda _: page.check(),
        "studies": lambda _: page.studies(),
        "study": page.study,
        "left": lambda _: page.left(verify=False),
        "verified": lambda _: page.left(verify=True),
        "arrived": lambda _: page.arrived(),
    }
    stored: dict[str, Callable[[str], str | None]] = {"contours": lambda _: page.contours(), "letter": page.letter}
    deeds: dict[str, Callable[[str], str | None]] = {
        "approve": page.approve,
        "decline": lambda _: page.decline(),
        "leave": page.leave,
        "hand-out": page.hand_out,
    }

    class PageHandler(Handler):
        def get(self) -> None:
            self._serve(self._get)

        def post(self) -> None:
            self._serve(self._post)

        def _serve(self, respond: Callable[[str, str], None]) -> None:
            """Answer a request that was dialled under this server's own address and begins with the token."""
            given, _, rest = self.path.removeprefix("/").partition("/")
            what, _, which = rest.partition("/")
            origin = self.headers.get("Origin")
            if not self.is_dialled() or origin not in (None, f"http://{self.headers.get('Host')}"):
                self._say(HTTPStatus.FORBIDDEN, "This page answers under its own address alone.")
            elif not secrets.compare_digest(given.encode(), token.encode()):
                self._say(
                    HTTPStatus.FORBIDDEN, "Open the address that relay site serve printed; it begins with a token."
                )
            else:
                try:
                    respond(what, which)
                except (RelayError, OSError) as error:
                    self._say(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))

        def _get(self, what: str, which: str) -> None:
            if what == "page.css":
                self.answer(HTTPStatus.OK, css.encode(), "text/css")
            elif what in stored:
                self._show(stored[what](which), STORED_POLICY)
            else:
                self._show(views[what](which) if what in views else None)

        def _post(self, what: str, which: str) -> None:
            body = self._body()
            if body is None:
                self._say(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "A study's file is far smaller than this one.")
            elif what == "check":
                page.start_check()
                self._go_to("check")
            elif what == "studies":
                self._take_study(body)
            else:
                self._show(deeds[what](which) if what in deeds else None)

        def _body(self) -> bytes | None:
            """Return the request's body; None where it is too large."""
            length = self.headers.get("Content-Length", "")
            size = int(length) if length.isascii() and length.isdigit() else 0
            return self.rfile.read(size) if size <= LARGEST else None

        def _take_study(self, body: bytes) -> None:
            kind = self.headers.get("Content-Type", "").encode("latin-1", "replace")
            parts = message_from_bytes(b"Content-Type: " + kind + b"\r\n\r\n" + body).walk()
            content = next((part.get_payload(decode=True) for part in parts if part.get_filename()), b"")
            try:
                self._go_to(f"study/{page.add_study(content if isinstance(content, bytes) else b'')}")
            except RelayError as error:
                self._show(page.studies(str(error)))

        def _go_to(self, view: str) -> None:
            self.answer(HTTPStatus.SEE_OTHER, b"", "text/html", {"Location": f"/{quote(token)}/{view}"})

        def _show(self, view: str | None, policy: str = POLICY) -> None:
            if view is None:
                self._say(HTTPStatus.NOT_FOUND, "There is nothing here.")
            else:
                self._answer(HTTPStatus.OK, view, "text/html", policy)

        def _say(self, code: HTTPStatus, sentence: str) -> None:
            self._answer(code, f"{sentence}\n", "text/plain", POLICY)

        def _answer(self, code: HTTPStatus, text: str, kind: str, policy: str) -> None:
            # Another referrer policy than the pages': a browser that may name no origin calls its own "null".
            headers = {"Content-Security-Policy": policy, "Referrer-Policy": "same-origin"}
            self.answer(code, text.encode(), kind, headers)

    return listen("127.0.0.1", port, PageHandler, "--port")
