"""Scores that a site worked out, kept patient by patient. They never leave.

An answer holds means, and loses its place once the coordinator has it; a hospital that asks at a study's end what it
got out of it needs the patients behind them. The key of a stage names them, so that they can be found for any weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from client.preprocessing import cache
from client.site_config import SiteConfig
from common.scores import SCORES

if TYPE_CHECKING:
    from client.evaluation.evaluate import CaseScore

FOLDER = "scores"


class PatientScore(BaseModel):
    """One patient's scores (`common.scores`), under the random number that the site gave it; overlaps are shares."""

    model_config = ConfigDict(frozen=True)
    number: int
    slices: int
    dice: float
    iou: float
    dice_volume: float
    hd95_mm: float | None = None
    """None where nothing was predicted, or distances were not measured."""
    assd_mm: float | None = None


class OwnScores(BaseModel):
    """Of one model on one split."""

    model_config = ConfigDict(frozen=True)
    dice: float
    """Slice means, as they were answered."""
    iou: float
    patients: tuple[PatientScore, ...]
    """By number."""


def keep(site: SiteConfig, key: str, scores: Sequence[CaseScore], numbers: Mapping[str, int]) -> None:
    """Keep scores under the key of the stage that asks for them. Raises RelayError where that cannot be written."""
    from client.evaluation.evaluate import (
        slice_mean,  # it brings in what reads and measures images; to read scores need not
    )

    dice, iou = slice_mean(scores)
    patients = [
        PatientScore(
            number=numbers[case.patient], slices=case.slices, **{one.key: getattr(case, one.key) for one in SCORES}
        )
        for case in scores
    ]
    own = OwnScores(dice=dice, iou=iou, patients=tuple(sorted(patients, key=lambda patient: patient.number)))
    # Durably, as the answer is that follows: a delivery is held against all of them.
    cache.write_json(site.private() / FOLDER / f"{key}.json", own.model_dump(), durable=True)


def kept(site: SiteConfig, key: str) -> OwnScores | None:
    """Return the scores under a key; None where there are none that can be read."""
    try:
        return OwnScores.model_validate(cache.read_json(site.private() / FOLDER / f"{key}.json"))
    except ValueError:
        return None
