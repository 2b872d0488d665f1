"""Serve the study's status on a self-updating web page: `relay study status --serve`."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from typing import Any

from deploy.web_page import Handler, Server, listen

FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}


def server(host: str, port: int, status: Callable[[], dict[str, Any]]) -> Server:
    """Make a web server for the status page at / and for the status as JSON at /status.json.

    The caller starts the server with `serve_forever`. A request is answered only if its Host header is `host`, the
    address dialled or a name of the loopback interface.

    Args:
        host: the name or address at which the server listens.
        port: the port; 0: any free port.
        status: returns the content of /status.json; called from the threads of the server.

    Raises:
        RelayError: the address cannot be taken, or is no address of this machine.
    """
    folder = resources.files("deploy").joinpath("coordinator/status_page_files")
    files = {path: (folder.joinpath(name).read_bytes(), kind) for path, (name, kind) in FILES.items()}

    class StatusHandler(Handler):
        def get(self) -> None:
            if not self.is_dialled(host):
                self.answer(403, b"This page answers under its own address alone.\n", "text/plain")
            elif self.path == "/status.json":
                self.answer(200, json.dumps(status()).encode(), "application/json")
            elif self.path in files:
                self.answer(200, *files[self.path])
            else:
                super().get()

    return listen(host, port, StatusHandler, "--serve")
