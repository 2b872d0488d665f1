"""The mean of several models' probabilities for a site's patients, with one model in memory at a time.

The members of an ensemble arrive one after the other, each in a message of its own. What the members so far have
predicted lies in files beside the stage, one a patient.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.evaluation.evaluate import Probabilities
from client.preprocessing.pipeline import PatientSlices, Record, load
from common.digest import digest_of
from common.files import write_atomically
from common.plan.graph import FineTune, Node


def mean_of(total: NDArray[np.float64], models: int) -> NDArray[np.float32]:
    """Return the mean of probabilities; of equal probabilities, exactly these.

    Args:
        total: the sum of the models' probabilities, of any shape.
        models: the number of models.
    """
    return (total / models).astype(np.float32)


def shown_fold(model: Node, site: str, fold: int) -> int:
    """Return the fold of a site by whose training patients images are standardised for a model.

    A model trained at the site last sees images as in its training.

    Args:
        model: the model, a member of an ensemble or a model by itself.
        site: the site of the images.
        fold: the fold for models of other sites.
    """
    return model.fold if isinstance(model, FineTune) and model.site == site else fold


@dataclass(frozen=True)
class MeanProbabilities:
    """Sums of probabilities in a folder; a member that is added again, after a crash, changes nothing."""

    folder: Path

    @property
    def added(self) -> int:
        """The number of members added to all their patients."""
        try:
            return int((self.folder / "added").read_text())
        except FileNotFoundError:
            return 0

    def add(self, member: int, probabilities: Probabilities, records: Iterable[Record]) -> None:
        """Add a member's probabilities.

        Args:
            member: the member's place in the ensemble; members are added in their order.
            probabilities: the member.
            records: the patients that the member segments: all, or those that its training held out.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for record in records:
            last, models, total = self._read(record)
            if last < member:
                found = probabilities(record, load(record)).astype(np.float64)
                self._write(record, member, models + 1, found if total is None else total + found)
        write_atomically(self.folder / "added", str(member + 1).encode())

    def of(self, record: Record, _: PatientSlices) -> NDArray[np.float32]:
        """Return the mean over the members that segmented a patient, (slices, pixels, pixels).

        Raises:
            ValueError: no member segmented the patient.
        """
        models, total = self._read(record)[1:]
        if total is None:
            raise ValueError("no member of the ensemble segmented the patient")
        return mean_of(total, models)

    def _read(self, record: Record) -> tuple[int, int, NDArray[np.float64] | None]:
        """Return the last member added, the number of members added, and their sum; None if there is none."""
        path = self._path(record)
        if not path.exists():
            return -1, 0, None
        with np.load(io.BytesIO(path.read_bytes())) as content:
            return int(content["last"]), int(content["models"]), content["total"]

    def _write(self, record: Record, last: int, models: int, total: NDArray[np.float64]) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, last=last, models=models, total=total)
        write_atomically(self._path(record), buffer.getvalue())

    def _path(self, record: Record) -> Path:
        return self.folder / f"{digest_of(record.patient.encode())}.npz"
