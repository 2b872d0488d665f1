"""Show progress bars on a terminal; a file or a pipe gets none, or a line every second if it asks for that."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from common.text import duration

BAR = 10
"""Columns of a progress bar."""
PATIENCE = 2.0
"""Seconds after which a progress bar appears."""
PROGRESS = "RELAY_PROGRESS"
"""The environment variable by which a program that runs a command asks for progress: "lines"."""


def terminal(stream: IO[str] | None = None) -> Console | None:
    """Return a stream's console, if the stream is a terminal.

    Args:
        stream: the stream; standard output by default.

    Returns:
        The console; None where the stream is a file, a pipe or a terminal without cursor movement.
    """
    stream = stream or sys.stdout
    console = Console(file=stream)
    return None if not stream.isatty() or console.is_dumb_terminal else console


@contextmanager
def bar(title: str, *, unit: str, stream: IO[str] | None = None) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on a terminal while the block runs, if the block takes longer than `PATIENCE` seconds.

    Args:
        title: the text beside the bar.
        unit: the counted things, in the plural, such as "patients".
        stream: where the bar is shown; standard output by default. Unless the stream is a terminal, nothing is shown,
            or a line every second if `PROGRESS` asks for it.

    Yields:
        A function to update the bar, called with the number of units done and the total number.
    """
    console = terminal(stream)
    if console is None:
        yield _lines(title, unit, stream or sys.stdout) if os.environ.get(PROGRESS) == "lines" else lambda *_: None
        return
    began = time.monotonic()
    count = [0, 0]

    def draw() -> Table:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_row(
            Text(title),
            ProgressBar(total=max(count[1], 1), completed=count[0], width=BAR),
            Text(f"{count[0]}/{count[1]} {unit}" if count[1] else "", style="dim"),
            Text(f"{duration(time.monotonic() - began)} so far", style="dim"),
        )
        return grid

    live = Live(console=console, refresh_per_second=4, transient=True, get_renderable=draw)
    timer = threading.Timer(PATIENCE, live.start)
    timer.start()

    def progress(done: int, of: int) -> None:
        count[:] = [done, of]

    try:
        yield progress
    finally:
        timer.cancel()
        timer.join()
        live.stop()


def _lines(title: str, unit: str, stream: IO[str]) -> Callable[[int, int], None]:
    """Return a function that prints a line of progress, at most every second."""
    printed = [0.0]

    def progress(done: int, of: int) -> None:
        if time.monotonic() - printed[0] >= 1.0:
            printed[0] = time.monotonic()
            print(f"{title}: {done} of {of} {unit}", file=stream, flush=True)

    return progress
