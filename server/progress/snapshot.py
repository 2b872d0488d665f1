"""The progress of a study in a file beside its results, `progress.json`, for readers during the run and afterwards.

The file holds only the coordinator's own knowledge: site names, routes and scores.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from common.config.study import Study
from common.config.values import POOLED
from common.errors import RelayError
from common.files import write_atomically
from server.progress.events import Event, Observer
from server.progress.wording import AWAY, WAITING, activity, result_of

NAME = "progress.json"
BEAT = 5.0
"""Seconds between two writes while nothing happens; each write shows a reader the study's process at work."""
SILENCE = 30.0
"""Seconds without a write after which a study in the state "running" counts as dead."""
RECENT = 12
"""The number of last finished stages in the file."""


class AtWork(BaseModel):
    """The present activity of a site."""

    model_config = ConfigDict(frozen=True)
    site: str
    what: str = WAITING
    """The site's activity, in words."""
    since: str = ""
    """The time at which the activity began: ISO 8601, UTC."""
    done: int = 0
    """Patients prepared or epochs trained."""
    of: int = 0
    """Patients or epochs in all; 0 where neither are counted."""
    dice: float | None = None
    """Validation Dice of the last epoch, 0 to 1."""
    finished: int = 0
    """Stages finished at the site, those of earlier runs into the folder included."""


class StudyProgress(BaseModel):
    """The progress of a study at one moment. Times are ISO 8601 in UTC."""

    model_config = ConfigDict(frozen=True)
    study: str
    state: Literal["running", "done", "stopped"] = "running"
    text: str = ""
    """Why the study stopped; empty for a running or finished study."""
    began: str
    """When the run began."""
    at: str
    """When the file was written."""
    stages_done: int = 0
    stages: int = 0
    variant: int = 0
    """The number of the plain study at work, counted from 0; stages are counted within this plain study."""
    variants: int = 1
    """The number of plain studies: one for each repeat and network."""
    seconds_left: float | None = None
    sites: tuple[AtWork, ...] = ()
    parked: tuple[str, ...] = ()
    """The reasons of stages waiting for another run, a sentence each."""
    recent: tuple[str, ...] = ()
    """The stages finished last, the latest first."""

    def silent(self, now: datetime) -> bool:
        """Return whether a study in the state "running" has not written its file for long."""
        return self.state == "running" and (now - datetime.fromisoformat(self.at)).total_seconds() > SILENCE


def read(folder: Path) -> StudyProgress:
    """Read the progress of a study from its result folder.

    Raises:
        RelayError: the folder holds no `progress.json`, or a damaged file.
    """
    path = folder / NAME
    try:
        return StudyProgress.model_validate_json(path.read_bytes())
    except OSError:
        raise RelayError(f"{folder} holds no study's progress; give the result folder of one with --out.") from None
    except ValidationError:
        raise RelayError(
            f"{path} is no progress as relay writes it; it is written anew when the study goes on."
        ) from None


@dataclass
class Recorder:
    """Keeps `progress.json` up to date; `observe` may be called from any thread, and a failed write is ignored."""

    folder: Path
    study: Study
    clock: Callable[[], float] = time.monotonic
    """Returns the time in seconds."""
    finished: Mapping[str, int] = field(default_factory=dict)
    """The number of stages finished at each site by earlier runs."""
    _progress: StudyProgress = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)
    _written: float = float("-inf")

    def __post_init__(self) -> None:
        sites = (*self.study.sites, *([POOLED] if self.study.methods.pooled else []))
        self._progress = StudyProgress(
            study=self.study.name,
            began=_now(),
            at=_now(),
            sites=tuple(AtWork(site=site, finished=self.finished.get(site, 0)) for site in sites),
        )
        self._write()
        threading.Thread(target=self._beat, daemon=True).start()

    def observing(self, observe: Observer) -> Observer:
        """Return an observer that updates the file and then calls another observer."""

        def both(event: Event) -> None:
            self.observe(event)
            observe(event)

        return both

    def observe(self, event: Event) -> None:
        """Update the progress with an event, and write the file at most once a second."""
        with self._lock:
            if self._over.is_set():
                return  # a site may go on preparing after the study failed to start
            now = self._progress
            changes: dict[str, object] = {"variant": event.variant, "variants": event.variants}
            if event.variant != now.variant:
                changes["seconds_left"] = None
            if event.stages:
                changes |= {"stages_done": event.stages_done, "stages": event.stages}
            if event.tells_time_left:
                left = event.seconds_left
                changes["seconds_left"] = None if left is None else round(left, 1)
            if event.kind == "parked" and event.text not in now.parked:
                changes["parked"] = (*now.parked, event.text)
            if event.kind in ("done", "skipped"):
                changes["recent"] = (result_of(event), *now.recent)[:RECENT]
            sites = tuple(_at_work(line, event) if line.site == event.site else line for line in now.sites)
            changes["sites"] = sites
            if any(line.what == AWAY for line in sites):
                changes["seconds_left"] = None  # the time of the site's return is unknown
            self._progress = now.model_copy(update=changes)
            if self.clock() - self._written >= 1.0:
                self._write()

    def close(self, text: str = "") -> None:
        """Write the end of the study into the file.

        Args:
            text: why the study stopped; empty for a finished study.
        """
        with self._lock:
            idle = tuple(line.model_copy(update=_IDLE) for line in self._progress.sites)
            state = "stopped" if text else "done"
            changes = {"state": state, "text": text, "sites": idle, "seconds_left": None}
            self._progress = self._progress.model_copy(update=changes)
            self._over.set()
            self._write()

    def _beat(self) -> None:
        """Write the file at regular intervals until the study ends."""
        while not self._over.wait(BEAT):
            with self._lock:
                if not self._over.is_set():
                    self._write()

    def _write(self) -> None:
        self._progress = self._progress.model_copy(update={"at": _now()})
        self._written = self.clock()
        with suppress(OSError):
            write_atomically(self.folder / NAME, self._progress.model_dump_json(indent=1).encode())


@contextmanager
def recording(
    folder: Path, study: Study, observe: Observer, *, finished: Mapping[str, int] | None = None
) -> Iterator[Observer]:
    """Keep `progress.json` up to date while the block runs, and write "done" or "stopped" as the final state.

    Args:
        folder: the result folder.
        study: the study.
        observe: another observer, called with every event as well.
        finished: the number of stages finished at each site by earlier runs into the folder.

    Yields:
        The observer to be called with every event.
    """
    recorder = Recorder(folder, study, finished=finished or {})
    try:
        yield recorder.observing(observe)
    except BaseException as error:
        recorder.close(str(error) or f"The program was ended ({type(error).__name__}).")
        raise
    recorder.close()


_IDLE: dict[str, object] = {"what": WAITING, "since": "", "done": 0, "of": 0, "dice": None}


def _at_work(line: AtWork, event: Event) -> AtWork:
    """Return a site's line after an event."""
    what = activity(event)
    if what is None:
        return line
    if what == WAITING:
        return line.model_copy(update={**_IDLE, "finished": line.finished + (event.kind == "done")})
    since = line.since if line.what == what and line.since else _now()
    counts = {"done": event.epoch, "of": event.epochs, "dice": event.dice}
    return line.model_copy(update={"what": what, "since": since, **counts})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
