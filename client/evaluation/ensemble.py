"""The mean of several models' probabilities for a site's patients, with one model in memory at a time.

The members of an ensemble arrive one after the other, each in a message of its own. What the members so far have
predicted lies in files beside the stage, one a patient.
"""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.evaluation.evaluate import Probabilities
from client.preprocessing.pipeline import PatientSlices, Record, load
from common.digest import digest_of
from common.files import write_atomically
from common.plan.graph import Node, training_in

STATE = "state.json"


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
    training = training_in(model)
    return training.fold if training and training.site == site else fold


class Incomplete(Exception):
    """What the members have segmented so far is damaged or lost; the ensemble begins with its first member again."""


@dataclass(frozen=True)
class MeanProbabilities:
    """Sums of probabilities in a folder; a member that is added again, after a crash, changes nothing.

    The file `state.json` says how many members were added, and how many segmented each patient. A patient's file that
    says otherwise is not used.
    """

    folder: Path

    def begin(self, *, validates: bool) -> None:
        """Begin an ensemble, unless it has begun.

        Args:
            validates: whether the members also segment validation patients, which stays so until the end.
        """
        if not (self.folder / STATE).exists():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            self._keep({"added": 0, "validates": validates, "models": {}})

    @property
    def added(self) -> int:
        """The number of members added to all their patients."""
        return int(self._state["added"])

    @property
    def validates(self) -> bool:
        """Whether the members also segment validation patients."""
        return bool(self._state["validates"])

    def add(self, member: int, probabilities: Probabilities, records: Iterable[Record]) -> None:
        """Add a member's probabilities.

        Args:
            member: the member's place in the ensemble; members are added in their order.
            probabilities: the member.
            records: the patients that the member segments: all, or those that its training held out.

        Raises:
            Incomplete: what earlier members segmented is damaged or lost.
        """
        state = self._state
        for record in records:
            before = state["models"].get(_name(record), 0)
            last, models, total = self._read(record) if before or self._path(record).exists() else (-1, 0, None)
            if last < member:
                if models != before:
                    raise Incomplete
                found = probabilities(record, load(record)).astype(np.float64)
                self._write(record, member, models + 1, found if total is None else total + found)
            state["models"][_name(record)] = before + 1
        self._keep(state | {"added": member + 1})

    def of(self, record: Record, _: PatientSlices) -> NDArray[np.float32]:
        """Return the mean over the members that segmented a patient, (slices, pixels, pixels).

        Raises:
            Incomplete: no member segmented the patient, or what the members segmented is damaged or lost.
        """
        models, total = self._read(record)[1:]
        if models != self._state["models"].get(_name(record)):
            raise Incomplete
        return mean_of(total, models)

    @property
    def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads((self.folder / STATE).read_bytes())
        except (OSError, ValueError):
            raise Incomplete from None
        return state

    def _keep(self, state: Mapping[str, Any]) -> None:
        write_atomically(self.folder / STATE, json.dumps(state).encode())

    def _read(self, record: Record) -> tuple[int, int, NDArray[np.float64]]:
        """Return the last member added to a patient, the number of members added, and their sum."""
        try:
            with np.load(io.BytesIO(self._path(record).read_bytes())) as content:  # a zip file, checked by its CRC
                return int(content["last"]), int(content["models"]), content["total"]
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
            raise Incomplete from None

    def _write(self, record: Record, last: int, models: int, total: NDArray[np.float64]) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, last=last, models=models, total=total)
        write_atomically(self._path(record), buffer.getvalue())

    def _path(self, record: Record) -> Path:
        return self.folder / f"{_name(record)}.npz"


def _name(record: Record) -> str:
    """Return the name of a patient's file, which does not show the patient's own."""
    return digest_of(record.patient.encode())
