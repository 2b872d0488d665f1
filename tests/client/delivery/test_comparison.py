"""Scores that are what they are called, and the interval of the study's report beside them."""

from __future__ import annotations

from statistics import fmean

import pytest

from client.delivery.comparison import ahead, differences
from client.delivery.comparison import scores as scores_of
from client.delivery.model_card import Scores
from client.evaluation.calibration import Reliability
from client.evaluation.score_store import OwnScores, PatientScore
from common.scores import DICE, DICE_VOLUME
from common.statistics.intervals import case_interval


def of(*patients: tuple[float, ...]) -> OwnScores:
    made = tuple(
        PatientScore(number=k, slices=int(p[0]), dice=p[1], iou=p[2], dice_volume=p[3], hd95_mm=p[4], assd_mm=p[5])
        if len(p) > 4
        else PatientScore(number=k, slices=int(p[0]), dice=p[1], iou=p[2], dice_volume=p[3])
        for k, p in enumerate(patients, start=1)
    )
    return OwnScores(dice=0.0, iou=0.0, dice_volume=0.0, cleaned=False, patients=made)


def scores(own: OwnScores, minimum_patients: int = 1) -> Scores:
    return scores_of(own, minimum_patients=minimum_patients)


def test_scores_are_means_over_slices_or_patients_as_they_are_called() -> None:
    found = scores(of((10, 0.9, 0.8, 0.7, 4.0, 1.0), (30, 0.5, 0.4, 0.6), (20, 0.8, 0.7, 0.8, 8.0, 2.0)))
    assert found.slices == 60
    assert found.dice.mean == pytest.approx((90 * 10 + 50 * 30 + 80 * 20) / 60)
    assert found.iou.mean == pytest.approx((80 * 10 + 40 * 30 + 70 * 20) / 60)
    assert found.dice_volume.mean == pytest.approx(fmean([70, 60, 80]))
    assert found.hd95_mm is not None and found.assd_mm is not None
    assert (found.hd95_mm.mean, found.hd95_mm.patients) == (6.0, 2), "where nothing was drawn there is no distance"
    assert (found.assd_mm.mean, found.dice.patients) == (1.5, 3)
    assert found.dice.low is None
    assert scores(of((1, 0.5, 0.4, 0.5))).hd95_mm is None


def test_a_difference_is_that_of_the_same_patients_or_there_is_none() -> None:
    one = of((10, 0.9, 0.8, 0.7), (30, 0.5, 0.4, 0.6))
    other = of((10, 0.8, 0.8, 0.7), (30, 0.6, 0.4, 0.6))
    assert differences(one, other, DICE) == [(pytest.approx(10), 10), (pytest.approx(-10), 30)]
    found = ahead(one, other, DICE)
    assert found is not None and found.mean == pytest.approx((10 * 10 - 10 * 30) / 40)
    back = ahead(other, one, DICE)
    assert back is not None and back.mean == pytest.approx(-found.mean)
    assert ahead(one, of((10, 0.8, 0.8, 0.7), (29, 0.6, 0.4, 0.6)), DICE) is None
    assert ahead(one, of((10, 0.8, 0.8, 0.7)), DICE) is None


def test_over_whole_volumes_every_patient_counts_alike() -> None:
    one = of((10, 0.9, 0.8, 0.7), (30, 0.5, 0.4, 0.6))
    other = of((10, 0.8, 0.8, 0.6), (30, 0.6, 0.4, 0.8))
    assert differences(one, other, DICE_VOLUME) == [(pytest.approx(10), 1), (pytest.approx(-20), 1)]
    found = ahead(one, other, DICE_VOLUME)
    assert found is not None and found.mean == pytest.approx(-5)


def test_the_hospital_has_the_interval_that_the_report_has() -> None:
    own = of(*((5 + k, 0.8 + 0.02 * k, 0.7, 0.6) for k in range(6)))
    report = case_interval(
        {str(patient.number): 100 * patient.dice for patient in own.patients},
        {str(patient.number): patient.slices for patient in own.patients},
        within=(0.0, 100.0),
    )
    found = scores(own).dice
    assert report is not None and (found.low, found.high) == pytest.approx(report)
    few = scores(of(*((5 + k, 0.8 + 0.02 * k, 0.7, 0.6) for k in range(5)))).dice
    assert (few.low, few.high) == (None, None)


def test_no_interval_leaves_what_a_score_can_be() -> None:
    found = scores(of(*((10, 0.999 - 0.3 * (k == 0), 0.9, 0.9, 0.1 + 9.0 * (k == 0), 0.1) for k in range(7))))
    assert found.dice.high is not None and found.dice.high <= 100
    assert found.hd95_mm is not None and found.hd95_mm.low is not None and found.hd95_mm.low >= 0


def test_a_calibration_error_is_the_mean_over_patients_and_its_curve_has_enough_of_them_in_each_bin() -> None:
    rest = (0,) * 8
    sums = [
        Reliability((8, 2, *rest), (0.4, 0.3, *map(float, rest)), (0, 1, *rest)),  # 0.4 and 0.7 apart, of 10
        Reliability((4, 0, *rest), (0.4, 0.0, *map(float, rest)), (0, 0, *rest)),  # 0.4 apart, of 4
    ]
    patients = [
        PatientScore(number=k, slices=5, dice=0.9, iou=0.8, dice_volume=0.9, reliability=one)
        for k, one in enumerate([*sums, None], start=1)
    ]
    own = OwnScores(dice=0.9, iou=0.8, dice_volume=0.9, cleaned=True, patients=tuple(patients))
    found = scores(OwnScores.model_validate_json(own.model_dump_json()))
    assert found.calibration_error is not None
    assert found.calibration_error.mean == pytest.approx((11 + 10) / 2)
    assert found.calibration_error.patients == 2, "one is of an earlier version"
    low, high = found.reliability
    assert (low.low, low.high, low.patients, high.patients) == (0, 10, 2, 1)
    assert low.voxels == pytest.approx(90) and (high.probability, high.gland) == (pytest.approx(15), 50)
    (low,) = scores(own, minimum_patients=2).reliability
    assert low.high == 10
    assert scores(of((5, 0.9, 0.8, 0.9))).calibration_error is None and not scores(of((5, 0.9, 0.8, 0.9))).reliability
