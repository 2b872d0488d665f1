"""Scores of single patients in a reply: stored at the site, and sent only where the site's file permits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from client.evaluation.evaluate import CaseScore
from client.site_config import SiteConfig
from common.protocol.messages import EvaluateReply, FineTuneReply

CASES = ("case_numbers", "case_slices", "case_dices", "case_ious", "case_volume_dices")
"""The fields of a reply about single patients."""

Reply = TypeVar("Reply", FineTuneReply, EvaluateReply)


def case_fields(scores: Sequence[CaseScore], numbers: Mapping[str, int]) -> dict[str, Any]:
    """Return the scores of single patients, by field, sorted by the patients' random numbers.

    Args:
        scores: a score for each patient.
        numbers: the random number of each patient, by name.
    """
    ordered = sorted(scores, key=lambda score: numbers[score.patient])
    return {
        "case_numbers": tuple(numbers[score.patient] for score in ordered),
        "case_slices": tuple(score.slices for score in ordered),
        "case_dices": tuple(score.dice for score in ordered),
        "case_ious": tuple(score.iou for score in ordered),
        "case_volume_dices": tuple(round(score.dice_volume, 6) for score in ordered),
    }


def permitted(reply: Reply, site: SiteConfig) -> Reply:
    """Return a reply without scores of single patients, unless the site's file permits them."""
    return reply if site.patient_scores else reply.model_copy(update=dict.fromkeys(CASES, ()))
