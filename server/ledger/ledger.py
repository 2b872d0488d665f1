"""The ledger: the durable record of a study, a JSON file for each stage, and weights by their digest.

A stage's record is written after its weights, and exists completely or not at all. A stage with a record is not run
again: from this rule follow resuming and sharing between studies. Changed data change the stage's key, and are
therefore trained on again.

Weights needed by no row, choice or stage may be deleted; their record stays, with their digest and lineage. `examine`
checks the content of all files; opening a ledger makes the same examination.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from common import locks
from common.digest import digest_of_file, digest_of_json
from common.errors import Damaged, Locked, RelayError
from common.files import write_atomically
from common.model.weights import Weights, mapped, save
from common.scores import Score
from common.text import short_digest

LOCK = ".lock"
"""The file of the result folder whose lock the writing process holds."""


class Cases(BaseModel):
    """Scores of single patients, under random numbers given by their site."""

    model_config = ConfigDict(frozen=True)
    numbers: tuple[int, ...] = ()
    slices: tuple[int, ...] = ()
    dices: tuple[float, ...] = ()
    ious: tuple[float, ...] = ()
    volume_dices: tuple[float, ...] = ()


class StageRecord(BaseModel):
    """The record of a finished stage. Dice and IoU are shares, 0 to 1; distances are in mm, volumes in ml."""

    model_config = ConfigDict(frozen=True)
    key: str
    kind: Literal[
        "start", "fine-tune", "re-estimate", "evaluate", "average", "refilled", "absent", "ensemble", "completed"
    ]
    """The kind of stage. "re-estimate": batch norm's statistics of an average, estimated at a target. "refilled": the
    weights of a route whose batch-norm tensors stayed at their site, with those of the first weights. "absent": the
    study skipped the stage, and went on with the stage's start weights. "ensemble": several models together.
    "completed": weights with a site's own tensors. Records of the last two kinds are made from others whenever needed,
    and are never stored."""
    site: str = ""
    fold: int = 0
    parents: tuple[str, ...] = ()
    """Digests of the stage's start weights."""
    weights: str = ""
    """Digest of the stage's resulting weights; of an ensemble, `common.plan.stage_key.ensemble_digest`; of weights
    with tensors that stay at a site, `common.plan.stage_key.completed_digest`."""
    own: str = ""
    """Digest of the tensors that stay at the site; empty where none stays."""
    shared: str = ""
    """Where tensors stay at the site, the digest of the file of all others; empty if all stay."""
    parts: str = ""
    """Digest of the network's parts that belong to the site, and stay there; empty for a network without such parts."""
    state: str = ""
    """Of an average, digest of the state of the server's optimizer after the round; empty without such an optimizer."""
    gradient_steps: int = 0
    train_slices: int = 0
    losses: tuple[float, ...] = ()
    learning_rates: tuple[float, ...] = ()
    dices: tuple[float, ...] = ()
    """Validation Dice of each epoch, on the study's grid."""
    kept_epoch: int = 0
    dice: float = 0.0
    """Dice of the kept weights on the native grid: of a training on its validation patients, of a scoring on its
    split."""
    iou: float = 0.0
    dice_volume: float = 0.0
    false_slices: int = 0
    """Slices without gland in which the model draws gland."""
    empty_slices: int = 0
    """Slices without gland."""
    cleaned: bool = False
    """Whether the segmentations were cleaned up."""
    below_floor: bool = False
    """Whether the scores are 0 because the model is below the site's floor."""
    patients: int = 0
    slices: int = 0
    hd95_mm: float = 0.0
    assd_mm: float = 0.0
    surface_patients: int = 0
    volume_error_ml: float = 0.0
    absolute_volume_error_ml: float = 0.0
    volume_patients: int = 0
    """Patients behind the volume errors; 0 where they were not measured."""
    dice_apex: float = 0.0
    dice_middle: float = 0.0
    dice_base: float = 0.0
    thirds_patients: int = 0
    """Patients behind the Dice of apex, middle and base; 0 where they were not measured."""
    dice_pz: float = 0.0
    dice_cg: float = 0.0
    zones_patients: int = 0
    """Patients behind the Dice of the zones; 0 where they were not measured."""
    calibration_error: float = 0.0
    calibration_patients: int = 0
    """Patients behind the calibration error; 0 where it was not measured, as in records of earlier versions."""
    cases: Cases = Cases()

    def value(self, score: Score) -> float:
        """Return the value of a score, as a share, in millimetres or in millilitres."""
        return float(getattr(self, score.key))

    @property
    def models(self) -> tuple[str, ...]:
        """The digests of the weights files of the result: none of a scoring, several of an ensemble."""
        if self.kind == "ensemble":
            return self.parents
        return (self.file,) if self.file else ()

    @property
    def file(self) -> str:
        """The digest of the only weights file of the result, without the tensors that stay at a site; empty: none."""
        # a skipped stage made nothing: its weights are those from which it was to start
        return self.shared if self.own and self.kind != "absent" else self.weights

    @property
    def files(self) -> tuple[str, ...]:
        """The digests of all files of the result: its models, and the state of the server's optimizer."""
        return (*self.models, self.state) if self.state else self.models

    @property
    def content(self) -> dict[str, Any]:
        """The content to write: every value that is not its field's default."""
        return self.model_dump(mode="json", exclude_defaults=True)


@dataclass(frozen=True)
class Fault:
    """A fault of a file in the ledger."""

    path: Path
    sentence: str
    damaged: bool
    """Whether the file's content is damaged. Otherwise the file is a sound record whose parent weights come from no
    record."""


@dataclass(frozen=True)
class LedgerExamination:
    """The sound content of a ledger, and the faults found."""

    records: dict[str, StageRecord]
    """The sound records, by key."""
    weights: frozenset[str]
    """Digests of the weights files whose content matches their name."""
    gone: frozenset[str]
    """Digests named in records, but held by no file: the weights were deleted as no longer needed, lost, or damaged."""
    faults: tuple[Fault, ...]


def examine(folder: Path, *, progress: Callable[[int, int], None] | None = None) -> LedgerExamination:
    """Check a result folder's ledger: records against their seals, weights files against their names, and lineage.

    The lineage is sound if the parent weights of every record are the result of another record.

    Args:
        folder: the result folder.
        progress: is called with the bytes read and the bytes in all.
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
        with suppress(FileNotFoundError):  # a running study deleted the file in the meantime
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
    """Return the digests of all files made by stages; a skipped stage made no weights."""
    return frozenset(file for record in records.values() if record.kind != "absent" for file in record.files)


def _strays(records: Mapping[str, StageRecord]) -> dict[str, str]:
    """Return, by key, the records whose start weights come from no record, with the digest of these weights."""
    made = _made_by(records)
    return {key: digest for key, record in records.items() for digest in record.parents if digest not in made}


def _read_record(path: Path) -> StageRecord | None:
    """Return the record in a file; None if the record is damaged, or its key or seal does not match.

    Raises:
        OSError: the file cannot be read, so nothing is known of its content.
    """
    file = path.read_bytes()
    try:
        content = json.loads(file)
        seal = content.pop("seal")
        # The seal is of the content as written: a record from before a field was added is sound, without that field.
        sound = seal == digest_of_json(content)
        record = StageRecord.model_validate_json(json.dumps(content))
    except (ValueError, TypeError, KeyError, AttributeError):  # no JSON, no object, no seal, no record
        return None
    return record if sound and record.key == path.stem else None


class Ledger:
    """The ledger of a study's result folder; only a single coordinator at a time may open the folder."""

    def __init__(self, folder: Path, *, progress: Callable[[int, int], None] | None = None) -> None:
        """Open the ledger of a folder, which is made if need be, and set damaged files aside.

        Damaged weights are deleted and made again. A damaged record stays in the folder under the ending ".damaged".

        Args:
            folder: the result folder.
            progress: is called with the bytes examined and the bytes in all.

        Raises:
            Locked: another coordinator has opened the folder.
            RelayError: the folder cannot be used.
        """
        self.folder = folder
        self._held = ExitStack()
        try:
            self._records.mkdir(parents=True, exist_ok=True)
            self._weights.mkdir(exist_ok=True)
            self._held.enter_context(locks.exclusive(folder / LOCK, wait=False, mode=0o666))
            for left in (*self._records.glob(".*.part"), *self._weights.glob(".*.part")):
                left.unlink()  # left by a coordinator that was killed while it wrote
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
        """The faults found on opening; damaged files have been deleted or set aside."""
        self._known = dict(found.records)
        self._there = set(found.weights)

    def close(self) -> None:
        """Release the folder for other coordinators."""
        self._held.close()

    @property
    def _records(self) -> Path:
        return self.folder / "ledger"

    @property
    def _weights(self) -> Path:
        return self.folder / "weights"

    def get(self, key: str) -> StageRecord | None:
        """Return the record of a key, or None; the record's weights may have been deleted."""
        return self._known.get(key)

    def records(self) -> list[StageRecord]:
        """Return all records, in no order."""
        return list(self._known.values())

    def put(self, record: StageRecord) -> None:
        """Write a record; its weights must have been written before."""
        content = record.content | {"seal": digest_of_json(record.content)}
        write_atomically(self._records / f"{record.key}.json", json.dumps(content, indent=1).encode(), durable=True)
        self._known[record.key] = record

    def set_strays_aside(self) -> None:
        """Set aside the records whose start weights come from no record, under the ending ".damaged".

        A stage with a damaged record is made again, and on a graphics card may come to other weights; results made from
        the earlier weights are then never used. Call this method only when no stage is left to be made.
        """
        while strays := _strays(self._known):
            for key in strays:
                del self._known[key]
                path = self._records / f"{key}.json"
                path.replace(path.with_suffix(".damaged"))

    def has(self, digest: str) -> bool:
        """Return whether the weights with a digest exist."""
        return digest in self._there

    def put_weights(self, weights: Weights) -> str:
        """Write weights, and return their digest."""
        digest = save(weights, self._weights)
        self._there.add(digest)
        return digest

    def file(self, digest: str) -> memoryview:
        """Return the file of weights as a memory map, to be sent.

        Raises:
            Damaged: the file was lost or changed since the ledger was opened; a changed file is deleted.
        """
        with self.checked(digest).open("rb") as file:
            return mapped(file)

    def checked(self, digest: str) -> Path:
        """Return the path of weights, after a check of the file against its digest.

        Raises:
            Damaged: the file was lost or changed since the ledger was opened; a changed file is deleted.
        """
        path = self.path_of(digest)
        with suppress(FileNotFoundError):
            if digest_of_file(path) == digest:
                return path
        self.drop(digest)
        raise Damaged(f"the weights {path} are gone or damaged; start again, and they are made again")

    def drop(self, digest: str) -> None:
        """Delete the weights with a digest."""
        self._there.discard(digest)
        self.path_of(digest).unlink(missing_ok=True)

    def path_of(self, digest: str) -> Path:
        """Return the path of the weights with a digest, even if the file does not exist."""
        return self._weights / f"{digest}.safetensors"
