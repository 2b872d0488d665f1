"""A score has one name wherever it is kept, sent, written or shown."""

from __future__ import annotations

import dataclasses

import pytest

from client.delivery.model_card import Scores
from client.evaluation.evaluate import CaseScore
from client.evaluation.score_store import PatientScore
from common.protocol.messages import EvaluateReply, FineTuneReply
from common.scores import (
    CALIBRATION,
    CALIBRATION_ERROR,
    COUNTED,
    DISTANCES,
    GLAND,
    OF_ZONES,
    OVERLAPS,
    SCORES,
    THIRDS,
    VALIDATED,
    VOLUME_ERROR,
    VOLUME_ERRORS,
)
from common.target import ZONES
from server.ledger.ledger import StageRecord
from server.results.schema import Row, Spread

KEYS = [score.key for score in SCORES]
GLAND_KEYS = [score.key for score in GLAND]
ZONE_KEYS = [score.key for score in OF_ZONES]


@pytest.mark.parametrize("model", [EvaluateReply, StageRecord, PatientScore, Scores, Row])
def test_what_holds_scores_has_a_field_for_each_under_its_one_name(
    model: type[EvaluateReply | StageRecord | PatientScore | Scores | Row],
) -> None:
    fields = list(model.model_fields)
    assert [key for key in fields if key in KEYS] == KEYS
    others = {"received_dice", "validation_dice", "validation_iou", "case_dice", "case_dices", "case_ious", "dices"}
    others |= {"validation_dice_volume", "case_volume_dices", "case_dice_volume"}
    others |= {*GLAND_KEYS, *ZONE_KEYS, "volume_patients", "validation_case_dice", "validation_case_dice_volume"}
    alike = {name for name in fields if any(part in name for part in ("dice", "iou", "hd95", "assd", "volume"))}
    assert alike - others == set(KEYS)


@pytest.mark.parametrize("model", [EvaluateReply, StageRecord, Row])
def test_what_holds_test_scores_has_a_field_for_each_figure_of_the_gland_and_for_the_patients_behind_it(
    model: type[EvaluateReply | StageRecord | Row],
) -> None:
    fields = list(model.model_fields)
    assert [key for key in fields if key in GLAND_KEYS] == GLAND_KEYS
    for patients, scores in COUNTED.items():
        assert fields.index(patients) == fields.index(scores[-1].key) + 1


def test_a_patients_scores_at_the_site_have_the_same_names() -> None:
    own = {*KEYS, *(score.key for score in (VOLUME_ERROR, *THIRDS, *OF_ZONES))}
    assert own <= {field.name for field in dataclasses.fields(CaseScore)}
    assert own <= PatientScore.model_fields.keys()
    assert all(isinstance(getattr(kind, CALIBRATION_ERROR.key), property) for kind in (CaseScore, PatientScore))
    assert CALIBRATION_ERROR.key in Scores.model_fields


def test_every_zone_has_a_score_in_the_zones_order() -> None:
    assert [f"dice_{zone.key.lower()}" for zone in ZONES.zones] == ZONE_KEYS
    for model in (EvaluateReply, StageRecord, PatientScore, Scores, Row):
        assert [key for key in model.model_fields if key in ZONE_KEYS] == ZONE_KEYS


def test_scores_that_select_are_on_every_row_of_validation_and_in_every_answer_of_a_training() -> None:
    for score in VALIDATED:
        assert f"validation_{score.key}" in Row.model_fields
        assert f"validation_{score.key}" in FineTuneReply.model_fields


def test_results_sum_up_every_score() -> None:
    summed = {*KEYS, *(f"validation_{score.key}" for score in VALIDATED)}
    found = {name for name in Spread.model_fields if name.endswith(("_mean", "_std"))}
    assert found == {f"{key}_{moment}" for key in summed for moment in ("mean", "std")}


def test_overlaps_are_shown_in_per_cent_and_distances_as_they_are() -> None:
    assert {score.shown(0.5) for score in (*OVERLAPS, *THIRDS, *CALIBRATION)} == {50.0}
    assert {score.shown(0.5) for score in (*DISTANCES, *VOLUME_ERRORS)} == {0.5}


def test_a_volume_error_alone_may_be_negative() -> None:
    assert [score for score in (*SCORES, *GLAND, *CALIBRATION) if score.range[0] < 0] == [VOLUME_ERROR]
    assert {score.range for score in (*OVERLAPS, *THIRDS, *CALIBRATION)} == {(0.0, 100.0)}
