"""The durable record of a study: one JSON a stage, weights by digest.

A record is written after its weights, and is there whole or not at all. A stage with a record is not run
again: that one rule is resume, sharing between studies, and what makes changed data train anew.

Weights that nobody needs any more may be taken away; their record stays, and with it their digest and
lineage. `examine` says whether all that is there is what it claims to be; opening a ledger is the same
examination.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from common import locks
from common.digest import digest_of_file, digest_of_json
from common.errors import Damaged, Locked, RelayError
from common.files import write_atomically
from common.model.weights import Weights, mapped, save
from common.text import short_digest


class Cases(BaseModel):
    """Scores of single patients, under the random numbers that their site gave them."""

    model_config = ConfigDict(frozen=True)
    numbers: tuple[int, ...] = ()
    slices: tuple[int, ...] = ()
    dices: tuple[float, ...] = ()
    ious: tuple[float, ...] = ()


class StageRecord(BaseModel):
    """What is known of a finished stage. Dice and IoU are shares, 0 to 1."""

    model_config = ConfigDict(frozen=True)
    key: str
    kind: Literal["start", "fine-tune", "evaluate", "average", "absent"]
    """"absent": the study went on without the stage, with the weights that it would have started from."""
    site: str = ""
    fold: int = 0
    parents: tuple[str, ...] = ()
    """Digests of the weights that the stage started from."""
    weights: str = ""
    """Digest of the weights that it made."""
    gradient_steps: int = 0
    train_slices: int = 0
    losses: tuple[float, ...] = ()
    learning_rates: tuple[float, ...] = ()
    dices: tuple[float, ...] = ()
    kept_epoch: int = 0
    dice: float = 0.0
    """A fine-tuning stage's on its own validation patients, an evaluation's on the split it was asked for."""
    iou: float = 0.0
    dice_volume: float = 0.0
    patients: int = 0
    slices: int = 0
    hd95_mm: float = 0.0
    assd_mm: float = 0.0
    surface_patients: int = 0
    cases: Cases = Cases()

    @property
    def seal(self) -> str:
        """sha256 over all that the record says."""
        return digest_of_json(self.model_dump(mode="json"))


@dataclass(frozen=True)
class Fault:
    """Something wrong with a file of the ledger."""

    path: Path
    sentence: str
    damaged: bool
    """It is not what it claims to be. Otherwise it is sound, and what it goes back to is not there."""


@dataclass(frozen=True)
class LedgerExamination:
    """What a ledger holds, as far as it is sound."""

    records: dict[str, StageRecord]
    """By key."""
    weights: frozenset[str]
    """Digests of the files that are what their names say."""
    gone: frozenset[str]
    """Digests that records name and no file holds: taken away when nobody needed them any more."""
    faults: tuple[Fault, ...]


def examine(folder: Path, *, progress: Callable[[int, int], None] | None = None) -> LedgerExamination:
    """Read a result folder's ledger: every record against its seal, every weights file against its name, and every
    record's parents against the records that made them.

    Args:
        progress: called with bytes read and bytes in all.
    """
    faults: list[Fault] = []
    records: dict[str, StageRecord] = {}
    for path in sorted((folder / "ledger").glob("*.json")):
        record = _read_record(path)
        if record is None:
            faults.append(Fault(path, "is no record as relay writes it, or was changed", damaged=True))
        else:
            records[record.key] = record
    made = _made_by(records)
    for key, digest in _strays(records).items():
        path = folder / "ledger" / f"{key}.json"
        faults.append(Fault(path, f"starts from weights {short_digest(digest)}… that no record made", damaged=False))
    files = sorted((folder / "weights").glob("*.safetensors"))
    total, done = sum(path.stat().st_size for path in files if path.exists()), 0
    sound = set()
    for path in files:
        with suppress(FileNotFoundError):  # a study that is at work took it away in between
            size = path.stat().st_size
            if digest_of_file(path) == path.stem:
                sound.add(path.stem)
            else:
                faults.append(Fault(path, "does not hold the weights that its name says", damaged=True))
            done += size
        if progress:
            progress(done, total)
    return LedgerExamination(records, frozenset(sound), frozenset(made - sound), tuple(faults))


def _made_by(records: Mapping[str, StageRecord]) -> frozenset[str]:
    """Return the digests of all weights that were made. A stage that was left out made none."""
    return frozenset(record.weights for record in records.values() if record.weights and record.kind != "absent")


def _strays(records: Mapping[str, StageRecord]) -> dict[str, str]:
    """By key, of every record that starts from weights which no record made, the digest of those."""
    made = _made_by(records)
    return {key: digest for key, record in records.items() for digest in record.parents if digest not in made}


def _read_record(path: Path) -> StageRecord | None:
    """Return a record that is whole, under its own key, and as it was sealed; None if it is not.

    Raises OSError where it cannot be read: that says nothing of what it holds.
    """
    file = path.read_bytes()
    try:
        content = json.loads(file)
        seal = content.pop("seal")
        record = StageRecord.model_validate_json(json.dumps(content))
    except (ValueError, TypeError, KeyError, AttributeError):  # no JSON, no object, no seal, no record
        return None
    return record if record.key == path.stem and record.seal == seal else None


class Ledger:
    """The result folder of one study; one coordinator at a time may hold it."""

    def __init__(self, folder: Path, *, progress: Callable[[int, int], None] | None = None) -> None:
        """Open a folder, made if need be. What is damaged is removed, so that it is made again; a damaged record is
        left beside the others, under a name that ends in ".damaged".

        Raises:
            Locked: another coordinator holds it.
            RelayError: it cannot be used.
        """
        self.folder = folder
        self._held = ExitStack()
        try:
            self._records.mkdir(parents=True, exist_ok=True)
            self._weights.mkdir(exist_ok=True)
            self._held.enter_context(locks.exclusive(folder / ".lock", wait=False, mode=0o666))
            for left in (*self._records.glob(".*.part"), *self._weights.glob(".*.part")):
                left.unlink()  # of a coordinator that was killed while it wrote
            found = examine(folder, progress=progress)
            for fault in found.faults:
                if fault.damaged and fault.path.suffix == ".json":
                    fault.path.replace(fault.path.with_suffix(".damaged"))
                elif fault.damaged:
                    fault.path.unlink(missing_ok=True)
        except BlockingIOError:
            raise Locked(
                f"Another study is writing to {folder}; wait for it, or give another folder with --out."
            ) from None
        except OSError as error:
            raise RelayError(
                f"The result folder {folder} cannot be used ({error.strerror}); what is finished in it is kept."
            ) from None
        self.faults = found.faults
        """What was found wrong; damaged files are removed by now."""
        self._known = dict(found.records)
        self._there = set(found.weights)

    def close(self) -> None:
        self._held.close()

    @property
    def _records(self) -> Path:
        return self.folder / "ledger"

    @property
    def _weights(self) -> Path:
        return self.folder / "weights"

    def get(self, key: str) -> StageRecord | None:
        """Return the record of a key; its weights may have been taken away."""
        return self._known.get(key)

    def put(self, record: StageRecord) -> None:
        """Keep a record; its weights must be there already."""
        content = record.model_dump(mode="json", exclude_defaults=True) | {"seal": record.seal}
        write_atomically(self._records / f"{record.key}.json", json.dumps(content, indent=1).encode(), durable=True)
        self._known[record.key] = record

    def set_strays_aside(self) -> None:
        """Set aside what was made from weights that are known no more, as damaged records are.

        A stage whose record was damaged may come to other weights when it is made again, on a graphics card; nothing
        asks any more for what was made from the first. To be called when nothing is left to be made.
        """
        while strays := _strays(self._known):
            for key in strays:
                del self._known[key]
                path = self._records / f"{key}.json"
                path.replace(path.with_suffix(".damaged"))

    def has(self, digest: str) -> bool:
        """Whether the weights are there."""
        return digest in self._there

    def put_weights(self, weights: Weights) -> str:
        """Keep weights; returns their digest."""
        digest = save(weights, self._weights)
        self._there.add(digest)
        return digest

    def file(self, digest: str) -> memoryview:
        """Return the file of weights, to be sent. Raises Damaged as `checked` does."""
        with self.checked(digest).open("rb") as file:
            return mapped(file)

    def checked(self, digest: str) -> Path:
        """Return the file of weights that are about to be used.

        Raises:
            Damaged: it was lost or changed since the ledger was opened; it is removed.
        """
        path = self.path_of(digest)
        with suppress(FileNotFoundError):
            if digest_of_file(path) == digest:
                return path
        self.drop(digest)
        raise Damaged(f"the weights {path} are gone or damaged; start again, and they are made again")

    def drop(self, digest: str) -> None:
        """Take weights away that nobody needs any more."""
        self._there.discard(digest)
        self.path_of(digest).unlink(missing_ok=True)

    def path_of(self, digest: str) -> Path:
        return self._weights / f"{digest}.safetensors"
