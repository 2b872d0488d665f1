"""The durable record of a study: one JSON a stage, weights by digest.

A record is written after its weights, and is there whole or not at all. A stage with a record is not run
again: that one rule is resume, sharing between studies, and what makes changed data train anew.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import filelock
from pydantic import BaseModel, ConfigDict

from common.errors import RelayError
from common.files import write_atomically
from common.weights import Weights, load, save


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
    kind: Literal["start", "fine-tune", "evaluate", "average"]
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
    cases: Cases = Cases()


class Ledger:
    """The result folder of one study; one coordinator at a time may hold it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sound: set[str] = set()
        try:
            self._records.mkdir(parents=True, exist_ok=True)
            self._weights.mkdir(exist_ok=True)
            self._lock = filelock.FileLock(folder / ".lock")
            self._lock.acquire(blocking=False)
        except filelock.Timeout:
            raise RelayError(
                f"Another study is writing to {folder}; wait for it, or give another folder with --out."
            ) from None
        except OSError as error:
            raise RelayError(f"The result folder {folder} cannot be used ({error.strerror}).") from None

    def close(self) -> None:
        self._lock.release()

    @property
    def _records(self) -> Path:
        return self.folder / "ledger"

    @property
    def _weights(self) -> Path:
        return self.folder / "weights"

    def get(self, key: str) -> StageRecord | None:
        """The record of a key, if it can be read and its weights are there and sound."""
        try:
            record = StageRecord.model_validate_json((self._records / f"{key}.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return record if not record.weights or self._are_sound(record.weights) else None

    def _are_sound(self, digest: str) -> bool:
        """Whether a weights file is what its name says; a damaged one is removed, so that it is made again."""
        if digest in self._sound:
            return True
        path = self.path_of(digest)
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return False
        if found != digest:
            path.unlink()
            return False
        self._sound.add(digest)
        return True

    def put(self, record: StageRecord) -> None:
        """Keep a record; its weights must be there already."""
        content = record.model_dump_json(indent=1, exclude_defaults=True).encode()
        write_atomically(self._records / f"{record.key}.json", content, durable=True)

    def put_weights(self, weights: Weights) -> str:
        """Keep weights; returns their digest."""
        digest = save(weights, self._weights)
        self._sound.add(digest)
        return digest

    def weights(self, digest: str) -> Weights:
        return load(self.path_of(digest))

    def path_of(self, digest: str) -> Path:
        return self._weights / f"{digest}.safetensors"
