"""A score has one name wherever it is kept, sent, written or shown."""

from __future__ import annotations

import dataclasses

import pytest

from client.delivery.model_card import Scores
from client.evaluation.evaluate import CaseScore
from client.evaluation.score_store import PatientScore
from common.protocol.messages import EvaluateReply, FineTuneReply
from common.scores import DISTANCES, OVERLAPS, SCORES, VALIDATED
from server.ledger.ledger import StageRecord
from server.results.schema import Row, Spread

KEYS = [score.key for score in SCORES]


@pytest.mark.parametrize("model", [EvaluateReply, StageRecord, PatientScore, Scores, Row])
def test_what_holds_scores_has_a_field_for_each_under_its_one_name(
    model: type[EvaluateReply | StageRecord | PatientScore | Scores | Row],
) -> None:
    fields = list(model.model_fields)
    assert [key for key in fields if key in KEYS] == KEYS
    others = {"received_dice", "validation_dice", "validation_iou", "case_dice", "case_dices", "case_ious", "dices"}
    others |= {"validation_dice_volume", "case_volume_dices", "case_dice_volume"}
    alike = {name for name in fields if any(part in name for part in ("dice", "iou", "hd95", "assd", "volume"))}
    assert alike - others == set(KEYS)


def test_a_patients_scores_at_the_site_have_the_same_names() -> None:
    assert set(KEYS) <= {field.name for field in dataclasses.fields(CaseScore)}


def test_scores_that_select_are_on_every_row_of_validation_and_in_every_answer_of_a_training() -> None:
    for score in VALIDATED:
        assert f"validation_{score.key}" in Row.model_fields
        assert f"validation_{score.key}" in FineTuneReply.model_fields


def test_results_sum_up_every_score() -> None:
    summed = {*KEYS, *(f"validation_{score.key}" for score in VALIDATED)}
    found = {name for name in Spread.model_fields if name.endswith(("_mean", "_std"))}
    assert found == {f"{key}_{moment}" for key in summed for moment in ("mean", "std")}


def test_overlaps_are_shown_in_per_cent_and_distances_as_they_are() -> None:
    assert {score.shown(0.5) for score in OVERLAPS} == {50.0}
    assert {score.shown(0.5) for score in DISTANCES} == {0.5}
