"""A page open in a browser without a screen."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WHY_NOT = "no Chromium here to open the page in"


@contextmanager
def browser(address: str, profile: Path, *, screen: tuple[int, int] = (1280, 800)) -> Iterator[Callable[[str], Any]]:
    """Open a page on a screen of so many pixels; gives what evaluates JavaScript in it."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={profile}", "--remote-debugging-port=0",
        "about:blank",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as program:
        try:
            until = time.monotonic() + 60
            written: list[str] = []
            while not written and time.monotonic() < until:  # the file is there before its content
                time.sleep(0.1)
                with suppress(FileNotFoundError):
                    written = (profile / "DevToolsActivePort").read_text(encoding="ascii").splitlines()
            port = int(written[0])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=20) as answer:
                (tab,) = [tab for tab in json.load(answer) if tab["type"] == "page"]
            with connect(tab["webSocketDebuggerUrl"], max_size=None) as socket:
                numbers = itertools.count(1)

                def call(method: str, **params: Any) -> Any:
                    number = next(numbers)
                    socket.send(json.dumps({"id": number, "method": method, "params": params}))
                    while (found := json.loads(socket.recv(timeout=30))).get("id") != number:
                        pass
                    return found["result"]

                def evaluate(expression: str) -> Any:
                    return call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

                width, height = screen
                call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                     mobile=width < 600)  # fmt: skip
                call("Page.navigate", url=address)
                until = time.monotonic() + 30
                ready = "location.href !== 'about:blank' && document.readyState === 'complete'"
                while not evaluate(ready) and time.monotonic() < until:
                    time.sleep(0.05)
                yield evaluate
        finally:
            program.terminate()
