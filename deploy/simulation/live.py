"""Show a study's progress: a live line for each hospital on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from common.config.values import POOLED
from common.text import duration
from deploy.console import BAR, terminal
from server.progress.events import Event, Observer
from server.progress.wording import WAITING, activity, count_of, dice_of, examined, known_of, line_of, stages_of

WIDEST = 110
"""Columns beyond which a live line grows no wider."""
ROOM_FOR_A_BAR = 70
"""Columns below which the live lines have no bar."""
LOG_EVERY = 20.0
"""The least number of seconds between two plain lines about a running stage."""
SILENCE = 5.0
"""Seconds without a plain line after which a finished scoring is worth a line."""


@contextmanager
def watching(sites: Sequence[str], *, folds: int, quiet: bool) -> Iterator[Observer]:
    """Show a study's progress while the block runs.

    Args:
        sites: the sites' names, in the order of their lines.
        folds: the number of folds run by the study; a single fold is not named.
        quiet: leave standard output alone, and show nothing unless standard error is a terminal.

    Yields:
        The function to be called with each event.
    """
    console = terminal(sys.stderr if quiet else sys.stdout)
    if console is None:
        yield (lambda event: None) if quiet else Lines(lambda line: print(line, flush=True)).observe
        return
    board = Board(sites, folds=folds)

    def observe(event: Event) -> None:
        board.observe(event)
        if event.kind in ("parked", "skipped"):
            console.print(Text(line_of(event), style="yellow"))

    with Live(board, console=console, refresh_per_second=4, transient=True):
        yield observe


@dataclass
class _Line:
    """Hold a hospital's present activity."""

    text: str = WAITING
    done: int = 0
    of: int = 0
    dice: float | None = None


@dataclass
class Board:
    """Draw the live lines. `observe` may be called from any thread."""

    sites: Sequence[str]
    folds: int = 1
    clock: Callable[[], float] = time.monotonic
    _lines: dict[str, _Line] = field(default_factory=dict)
    _stages: tuple[int, int] = (0, 0)
    _variant: tuple[int, int] = (0, 1)
    _first: str = "preparing"
    """The study's activity before its stages are known."""
    _ends: float | None = None
    _began: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._began = self.clock()
        self._lines = {site: _Line() for site in self.sites}

    def observe(self, event: Event) -> None:
        """Take in an event of the study."""
        with self._lock:
            if event.kind == "examining":
                self._first = examined(event)
                return
            self._first = "preparing"
            if event.stages:
                self._stages = event.stages_done, event.stages
            if event.variant != self._variant[0]:
                self._ends = None
            self._variant = event.variant, event.variants
            if event.tells_time_left:
                self._ends = None if event.seconds_left is None else self.clock() + event.seconds_left
            what = activity(event, name_fold=self.folds > 1)
            if what is None or event.site not in self._lines:
                return
            counts = event.kind in ("preparing", "running")
            self._lines[event.site] = _Line(what, event.epoch, event.epochs, event.dice) if counts else _Line(what)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width, WIDEST)
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.width = width
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        bars = width >= ROOM_FOR_A_BAR
        if bars:
            grid.add_column(width=BAR)
        grid.add_column(no_wrap=True, justify="right", min_width=5)
        grid.add_column(no_wrap=True, min_width=11)
        with self._lock:
            for site, line in self._lines.items():
                idle = line.text == WAITING
                cells: list[Text | ProgressBar] = [
                    Text("all data" if site == POOLED else site, style="bold"),
                    Text(line.text, style="dim" if idle else ""),
                ]
                if bars:
                    drawn = ProgressBar(total=line.of, completed=line.done, width=BAR) if line.of else Text()
                    cells.append(drawn)
                cells.append(Text(count_of(line.text, line.done, line.of, between="/"), style="dim"))
                cells.append(Text("" if line.dice is None else dice_of(line.dice)))
                grid.add_row(*cells)
            done, stages = self._stages
            now = self.clock()
            parts = stages_of(done, stages, *self._variant)
            if not stages:
                parts.append(self._first)
            if self._ends is not None:
                parts.append(f"about {duration(max(self._ends - now, 0))} left")
            parts.append(f"{duration(now - self._began)} so far")
        yield grid
        yield Text(" · ".join(parts), style="dim", no_wrap=True, overflow="ellipsis")


@dataclass
class Lines:
    """Write progress as plain lines, few enough to be read. `observe` may be called from any thread."""

    write: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _began: float = 0.0
    _last_line_at: dict[str, float] = field(default_factory=dict)
    """When the last line about a site was written, by the site's name."""
    _known: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._began = self.clock()

    def observe(self, event: Event) -> None:
        """Take in an event; stages finished by earlier runs are counted in a single line.

        A finished scoring is written only after `SILENCE` seconds without any line.
        """
        with self._lock:
            if event.kind == "examining":
                return
            if event.kind == "known":
                self._known += 1
                return
            if self._known and event.stages:
                self._line(known_of(self._known))
                self._known = 0
            if event.kind in ("parked", "skipped", "delivered", "away", "back") or self._worth_a_line(event):
                self._last_line_at[event.site] = self.clock()
                self._line(line_of(event))

    def _worth_a_line(self, event: Event) -> bool:
        if event.kind == "preparing" and event.epoch == event.epochs:
            return True
        if event.kind == "done":
            quiet = self.clock() - max(self._last_line_at.values(), default=self._began)
            return event.stage == "fine-tune" or quiet >= SILENCE
        if event.kind == "running" and not event.epoch:
            return False
        return self.clock() - self._last_line_at.get(event.site, self._began) >= LOG_EVERY

    def _line(self, text: str) -> None:
        minutes, seconds = divmod(int(self.clock() - self._began), 60)
        # The reader of the lines may have closed the pipe; the study goes on.
        with suppress(OSError):
            self.write(f"{minutes:3d}:{seconds:02d} {text}")
