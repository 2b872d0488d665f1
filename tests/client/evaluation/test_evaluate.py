"""Scores are what a reader of the report takes them for: on the native grid, slice by slice, by patient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from client.evaluation.evaluate import CaseScore, Example, evaluate, slice_mean, standardised_first, volume_mean
from client.preprocessing.pipeline import Record, prepare
from client.site_config import SiteConfig
from common.config.study import N4Config, PreprocessingConfig

PLAIN = PreprocessingConfig(pixels=64, spacing_mm=1.0, minimum_mask_pixels=40, n4=N4Config(enabled=False))
SPACING = (3.0, 0.5, 0.5)

Array = NDArray[Any]


def make(folder: Path, masks: list[Array], preprocessing: PreprocessingConfig = PLAIN) -> tuple[Record, ...]:
    """A site whose images are the masks' own pictures: bright where the prostate is."""
    images = folder / "images"
    images.mkdir()
    for k, mask in enumerate(masks):
        noise = np.random.default_rng(k).normal(0, 1, mask.shape)
        for name, array in ((f"Case{k:02}", mask * 100.0 + noise), (f"Case{k:02}_segmentation", mask)):
            volume = sitk.GetImageFromArray(array.astype(np.float32 if "_" not in name else np.uint8))
            volume.SetSpacing(SPACING[::-1])
            sitk.WriteImage(volume, str(images / f"{name}.nii.gz"))
    site = SiteConfig(name="A", layout="nifti-pairs", images=images, folder=folder / "private")
    return prepare(site, preprocessing).records


def squares(*sides: int, size: int = 96) -> Array:
    """One slice a side: a square with that many pixels a side in the middle."""
    mask = np.zeros((len(sides), size, size), bool)
    for k, side in enumerate(sides):
        first = (size - side) // 2
        mask[k, first : first + side, first : first + side] = True
    return mask


def threshold(at: float) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    return lambda slices: (slices > at).astype(np.float32)


def test_a_perfect_prediction_scores_close_to_one(tmp_path: Path) -> None:
    records = make(tmp_path, [squares(0, 32, 40), squares(20, 20, 0, 0)])
    scores = evaluate(standardised_first(threshold(0.5), lambda record: (0.0, 100.0)), records)
    assert [score.patient for score in scores] == ["Case00", "Case01"]
    assert [score.slices for score in scores] == [2, 2]
    for score in scores:
        assert score.dice > 0.97 and score.iou > 0.95 and score.dice_volume > 0.97


def test_a_shifted_prediction_scores_as_worked_out_by_hand(tmp_path: Path) -> None:
    (record,) = make(tmp_path, [squares(40, 40, 40)])

    def predict(slices: NDArray[np.float32]) -> NDArray[np.float32]:
        # The square is 20 mm wide; 5 mm are 5 pixels here.
        return np.roll((slices > 0.5).astype(np.float32), 5, axis=2)

    (score,) = evaluate(standardised_first(predict, lambda _: (0.0, 100.0)), [record])
    assert score.dice == pytest.approx(15 / 20, abs=0.01)
    assert score.iou == pytest.approx(15 / 25, abs=0.01)
    assert score.dice_volume == pytest.approx(15 / 20, abs=0.01)


def test_slices_count_by_the_experts_mask_and_the_volume_counts_them_all(tmp_path: Path) -> None:
    # 4 x 4 pixels are below the threshold of 40, and one slice is empty; both are predicted full of prostate.
    (record,) = make(tmp_path, [squares(0, 4, 32)])

    def predict(slices: NDArray[np.float32]) -> NDArray[np.float32]:
        result = (slices > 0.5).astype(np.float32)
        result[:2] = 1.0
        return result

    (score,) = evaluate(standardised_first(predict, lambda _: (0.0, 100.0)), [record])
    assert (record.selected, record.below, score.slices) == (1, 1, 1)
    assert score.dice > 0.97
    # The native slice is 96 x 96, and the grid of 64 mm covers its 48 mm whole.
    expected = 2 * (16 + 1024) / (16 + 1024 + 2 * 96 * 96 + 1024)
    assert score.dice_volume == pytest.approx(expected, abs=0.005)
    assert (score.false_slices, score.empty_slices) == (1, 1), "the small gland is gland all the same"


def test_slices_without_gland_are_counted_and_those_in_which_gland_is_drawn(tmp_path: Path) -> None:
    records = make(tmp_path, [squares(0, 0, 32, 0, 0), squares(40, 40, 36)])

    def predict(slices: NDArray[np.float32]) -> NDArray[np.float32]:
        result = (slices > 0.5).astype(np.float32)
        if len(slices) == 5:
            result[[0, 4], 30, 30] = 1.0
        return result

    scores = evaluate(standardised_first(predict, lambda _: (0.0, 100.0)), records)
    assert [(score.false_slices, score.empty_slices) for score in scores] == [(2, 4), (0, 0)]
    assert volume_mean(scores) == pytest.approx((scores[0].dice_volume + scores[1].dice_volume) / 2)


def test_volume_and_thirds_are_those_of_the_segmentation_that_is_scored(tmp_path: Path) -> None:
    (record,) = make(tmp_path, [squares(0, 32, 32, 32, 0, 0)])

    def predict(slices: NDArray[np.float32]) -> NDArray[np.float32]:
        result = (slices > 0.5).astype(np.float32)
        result[1] = 0.0  # the slice nearest to the feet
        result[5, 28:32, 28:32] = 1.0  # 4 x 4 mm apart from the gland, which the clean-up removes
        return result

    (plain,) = evaluate(standardised_first(predict, lambda _: (0.0, 100.0)), [record])
    (cleaned,) = evaluate(standardised_first(predict, lambda _: (0.0, 100.0)), [record], cleaned=True)
    # A slice of the gland is 16 x 16 x 3 mm, 0.768 ml.
    assert cleaned.volume_error_ml == pytest.approx(-0.768, abs=0.02)
    assert plain.volume_error_ml == pytest.approx(-0.768 + 0.048, abs=0.02)
    for score in (plain, cleaned):
        assert score.dice_apex == 0.0
        assert score.dice_middle is not None and score.dice_base is not None
        assert min(score.dice_middle, score.dice_base) > 0.97
    assert plain.absolute_volume_error_ml == -(plain.volume_error_ml or 0.0)


def test_what_lies_beyond_the_grid_counts_as_missed(tmp_path: Path) -> None:
    small = PLAIN.model_copy(update={"pixels": 32})
    (record,) = make(tmp_path, [squares(80, 80, 80)], small)  # 40 mm of prostate, 32 mm of grid
    (score,) = evaluate(standardised_first(lambda slices: np.ones_like(slices), lambda _: (0.0, 1.0)), [record])
    assert score.iou == pytest.approx(32**2 / 40**2, abs=0.01)


def test_each_patient_is_standardised_with_its_own_figures(tmp_path: Path) -> None:
    records = make(tmp_path, [squares(30, 30, 30), squares(30, 30, 30, 30)])
    seen: list[tuple[float, float]] = []

    def predict(slices: NDArray[np.float32]) -> NDArray[np.float32]:
        assert slices.dtype == np.float32
        middle = slices[:, 30:34, 30:34]
        seen.append((float(middle.mean()), float(np.median(slices))))
        return np.zeros_like(slices)

    evaluate(
        standardised_first(predict, lambda record: (50.0, 25.0) if record.patient == "Case00" else (0.0, 10.0)), records
    )
    assert seen[0] == (pytest.approx(2.0, abs=0.05), pytest.approx(-2.0, abs=0.05))
    assert seen[1] == (pytest.approx(10.0, abs=0.1), pytest.approx(0.0, abs=0.1))


def test_examples_are_the_selected_slices_with_their_scores(tmp_path: Path) -> None:
    records = make(tmp_path, [squares(0, 32, 40), squares(20, 20, 0)])
    kept: list[Example] = []
    scores = evaluate(standardised_first(threshold(0.5), lambda _: (0.0, 100.0)), records, keep=kept.append)
    assert [(example.patient, example.number) for example in kept] == [
        ("Case00", 1),
        ("Case00", 2),
        ("Case01", 0),
        ("Case01", 1),
    ]
    assert scores[0].dice == pytest.approx((kept[0].dice + kept[1].dice) / 2)
    for example in kept:
        assert example.image.shape == example.expert.shape == example.predicted.shape == (64, 64)


def test_pictures_show_the_segmentation_that_was_scored(tmp_path: Path) -> None:
    records = make(tmp_path, [squares(32, 32, 32)])

    def predict(slices: NDArray[np.float32]) -> NDArray[np.float32]:
        result = (slices > 0.5).astype(np.float32)
        result[1, 12:16, 12:16] = 1.0  # a stain in a corner, apart from the square
        return result

    for cleaned in (False, True):
        kept: list[Example] = []
        evaluate(standardised_first(predict, lambda _: (0.0, 100.0)), records, cleaned=cleaned, keep=kept.append)
        assert kept[1].predicted[28:36, 28:36].all()
        assert kept[1].predicted[10:18, 10:18].any() != cleaned


def test_the_headline_weighs_slices_not_patients() -> None:
    scores = [CaseScore("a", 1, 0.2, 0.1, 0.5), CaseScore("b", 3, 0.6, 0.5, 0.5)]
    assert slice_mean(scores) == (pytest.approx(0.5), pytest.approx(0.4))
    with pytest.raises(ValueError):
        slice_mean([])


def test_predictions_of_another_shape_are_refused(tmp_path: Path) -> None:
    records = make(tmp_path, [squares(30, 30, 30)])
    with pytest.raises(ValueError, match="shape"):
        evaluate(standardised_first(lambda slices: slices[:, ::2], lambda _: (0.0, 1.0)), records)
