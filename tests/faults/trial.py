"""One seed, lived through and judged."""

from __future__ import annotations

import functools
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.faults.benches import BENCHES
from tests.faults.history import Bench, Ending, History, world
from tests.faults.plans import OF_DATA, Fault, planned_faults


@dataclass(frozen=True)
class Trial:
    """A history and what is wrong with how it ended."""

    seed: int
    bench: str
    faults: tuple[Fault, ...]
    told: tuple[str, ...]
    complaints: tuple[str, ...]

    @property
    def struck(self) -> tuple[Fault, ...]:
        """The faults that came to pass."""
        return tuple(fault for fault in self.faults if any(str(fault) in line for line in self.told))

    @property
    def tale(self) -> str:
        """All of it, and how to live it again."""
        planned = [f"  planned: {fault}" for fault in self.faults]
        wrong = [f"  WRONG: {complaint}" for complaint in self.complaints]
        again = f"seed {self.seed}, bench {self.bench}; again with: python -m tests.faults {self.seed}"
        return "\n".join([again, *planned, *(f"  {line}" for line in self.told), *wrong])


def tried(seed: int) -> Trial:
    """Live the history of a seed."""
    bench = BENCHES[seed % len(BENCHES)]
    undisturbed = undisturbed_ending(bench.name)
    faults = planned_faults(seed, undisturbed.counts)
    told, found = lived(bench, seed, faults)
    if isinstance(found, str):
        return Trial(seed, bench.name, faults, told, (found,))
    return Trial(seed, bench.name, faults, told, tuple(_complaints(found, undisturbed, faults)))


@functools.cache
def undisturbed_ending(name: str) -> Ending:
    """What a bench's study gives when nothing happens to it."""
    _, found = lived(next(bench for bench in BENCHES if bench.name == name), 0, ())
    assert isinstance(found, Ending), found
    return found


def lived(bench: Bench, seed: int, faults: tuple[Fault, ...]) -> tuple[tuple[str, ...], Ending | str]:
    """What happened, and how it ended; in words if it did not end as a study should."""
    told: list[str] = []
    try:
        with tempfile.TemporaryDirectory(dir=_memory(), prefix="relay-faults-") as folder:
            history = History(bench, Path(folder), seed, faults)
            told = history.told
            with world(history):
                ending = history.live()
        return tuple(told), ending
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also of clearing up, so that the seed is told
        return tuple(told), "".join(traceback.format_exception(error))


def _memory() -> str | None:
    """A file system in memory, where there is one: histories write many small files."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _complaints(found: Ending, undisturbed: Ending, faults: tuple[Fault, ...]) -> list[str]:
    complaints = []
    if found.results != undisturbed.results:
        complaints.append("the results are not those of the undisturbed study")
    if found.ledger != undisturbed.ledger:
        complaints.append("the ledger is not that of the undisturbed study")
    if found.weights != undisturbed.weights:
        complaints.append("the weights are not those of the undisturbed study")
    if not any(fault.harm in OF_DATA for fault in faults):
        if found.again:
            complaints.append(f"finished work was done again: {'; '.join(found.again)}")
        if found.removed:
            complaints.append(f"sound records were removed: {'; '.join(found.removed)}")
    complaints += [f"the log of what left {fault}" for fault in found.logs]
    return complaints
