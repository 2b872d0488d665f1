"""How far a study is, in a file beside its results: `progress.json`, for whoever asks while it runs and after.

The file says nothing that the coordinator does not know anyway: site names, the way of the weights, scores.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from common.config.study import POOLED, Study
from common.errors import RelayError
from common.files import write_atomically
from server.progress.events import Event, Observer
from server.progress.wording import AWAY, WAITING, activity, result_of

NAME = "progress.json"
BEAT = 5.0
"""Seconds between two writes while nothing happens: a reader sees by them that the study is alive."""
SILENCE = 30.0
"""Seconds without a beat after which a study that claims to run is taken for dead."""
RECENT = 12
"""Finished stages that are listed."""


class AtWork(BaseModel):
    """What one site does now."""

    model_config = ConfigDict(frozen=True)
    site: str
    what: str = WAITING
    since: str = ""
    """ISO 8601, UTC."""
    done: int = 0
    of: int = 0
    """Patients prepared or epochs trained; `of` is 0 where neither is counted."""
    dice: float | None = None
    """Of the last epoch on validation patients, 0 to 1."""
    finished: int = 0
    """Stages that this run has finished there."""


class StudyProgress(BaseModel):
    """A study at one moment. Times are ISO 8601 in UTC."""

    model_config = ConfigDict(frozen=True)
    study: str
    state: Literal["running", "done", "stopped"] = "running"
    text: str = ""
    """Why it stopped, where it did."""
    began: str
    at: str
    """When this was written."""
    stages_done: int = 0
    stages: int = 0
    variant: int = 0
    variants: int = 1
    """A study with repeats or several networks is worked out as so many plain studies; stages are counted within."""
    seconds_left: float | None = None
    sites: tuple[AtWork, ...] = ()
    parked: tuple[str, ...] = ()
    """Why stages wait for another run, a sentence each."""
    recent: tuple[str, ...] = ()
    """The stages finished last, the latest first."""

    def silent(self, now: datetime) -> bool:
        """Whether a study that claims to run gives no sign of life."""
        return self.state == "running" and (now - datetime.fromisoformat(self.at)).total_seconds() > SILENCE


def read(folder: Path) -> StudyProgress:
    """Return what a result folder says of its study's progress.

    Raises:
        RelayError: there is no such study, or the file is damaged.
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
    """Keeps the file. `observe` may be called from any thread; a file that cannot be written harms nothing."""

    folder: Path
    study: Study
    clock: Callable[[], float] = time.monotonic
    _progress: StudyProgress = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)
    _written: float = float("-inf")

    def __post_init__(self) -> None:
        sites = (*self.study.sites, *([POOLED] if self.study.methods.pooled else []))
        self._progress = StudyProgress(
            study=self.study.name, began=_now(), at=_now(), sites=tuple(AtWork(site=site) for site in sites)
        )
        self._write()
        threading.Thread(target=self._beat, daemon=True).start()

    def observing(self, observe: Observer) -> Observer:
        """Return an observer that keeps the file, and calls the other one."""

        def both(event: Event) -> None:
            self.observe(event)
            observe(event)

        return both

    def observe(self, event: Event) -> None:
        """Take in an event."""
        with self._lock:
            if self._over.is_set():
                return  # a site may go on preparing when the study cannot begin
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
                changes["seconds_left"] = None  # nobody knows when it is back
            self._progress = now.model_copy(update=changes)
            if self.clock() - self._written >= 1.0:
                self._write()

    def close(self, text: str = "") -> None:
        """Return the study has ended: done, or stopped with a sentence that says why."""
        with self._lock:
            idle = tuple(line.model_copy(update=_IDLE) for line in self._progress.sites)
            state = "stopped" if text else "done"
            changes = {"state": state, "text": text, "sites": idle, "seconds_left": None}
            self._progress = self._progress.model_copy(update=changes)
            self._over.set()
            self._write()

    def _beat(self) -> None:
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
def recording(folder: Path, study: Study, observe: Observer) -> Iterator[Observer]:
    """Keep the file while the block runs; gives what is to be called with each event, and calls `observe` with it."""
    recorder = Recorder(folder, study)
    try:
        yield recorder.observing(observe)
    except BaseException as error:
        recorder.close(str(error) or f"The program was ended ({type(error).__name__}).")
        raise
    recorder.close()


_IDLE: dict[str, object] = {"what": WAITING, "since": "", "done": 0, "of": 0, "dice": None}


def _at_work(line: AtWork, event: Event) -> AtWork:
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
