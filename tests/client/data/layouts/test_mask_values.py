"""A mask's values are labels, or the site says what they mean; nothing between whole numbers is gland by chance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from client import data_check
from client.data import layouts
from client.data_check import Kind, words
from tests.client.data.layouts.test_geometry import stating
from tests.client.data.layouts.test_multiframe import with_mask
from tests.support.layout_files import Array, as_nifti_pairs, bad, only, same, truth


def softmax(mask: Array) -> Array:
    return np.maximum(ndimage.gaussian_filter((mask > 0).astype(np.float32), (0.5, 2, 2)), 1e-6)


def interpolated(mask: Array) -> Array:
    soft = ndimage.gaussian_filter((mask > 0).astype(np.float32), 1.0)
    return np.where(soft > 0.01, soft, 0)


def halves(mask: Array) -> Array:
    return (mask > 0) * np.float32(0.5)


@pytest.mark.parametrize("spoil", [softmax, interpolated, halves])
def test_values_between_whole_numbers_are_told_and_cut_at_a_stated_threshold(tmp_path: Path, spoil: object) -> None:
    image, mask = truth()
    soft = spoil(mask)  # type: ignore[operator]
    config = as_nifti_pairs(tmp_path, image, soft.astype(np.float32))
    told = bad(only(layouts.find(config)))
    assert "between whole numbers" in told and '"mask_threshold"' in told and f"{soft.max():.4g}" in told
    same(layouts.read(only(layouts.find(stating(tmp_path, "mask_threshold = 0.4\n")))), image, soft > 0.4)


def test_a_probability_in_whole_numbers_is_told(tmp_path: Path) -> None:
    image, mask = truth()
    soft = np.rint(255 * softmax(mask))
    assert len(np.unique(soft)) > 65
    told = bad(only(layouts.find(as_nifti_pairs(tmp_path, image, soft.astype(np.uint8)))))
    assert "too many for labels" in told
    same(layouts.read(only(layouts.find(stating(tmp_path, "mask_threshold = 127\n")))), image, soft > 127)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    labels=st.lists(st.integers(1, 255), min_size=1, max_size=5, unique=True),
    error=st.floats(-9e-4, 9e-4),
    data=st.data(),
)
def test_labels_are_whole_numbers_give_or_take_a_conversions_rounding(
    tmp_path: Path, labels: list[int], error: float, data: st.DataObject
) -> None:
    image, _ = truth()
    mask = np.zeros(image.shape, np.float32)
    for k, label in enumerate(labels):
        mask[2 + k, 5:20, 5:20] = label + error
    config = as_nifti_pairs(tmp_path, image, mask)
    case = layouts.read(only(layouts.find(config)))
    same(case, image, mask)
    assert [round(value) for value, _ in case.values] == sorted(labels)
    assert all(number == 15 * 15 for _, number in case.values)
    gland = data.draw(st.lists(st.sampled_from(labels), min_size=1, unique=True))
    with_labels = stating(tmp_path, f"labels = {gland}\n")
    same(layouts.read(only(layouts.find(with_labels))), image, np.isin(np.rint(mask), gland))


def test_a_mask_without_the_stated_labels_is_told_with_what_it_holds(tmp_path: Path) -> None:
    as_nifti_pairs(tmp_path, *truth())
    told = bad(only(layouts.find(stating(tmp_path, "labels = [7, 9]\n"))))
    assert "7, 9" in told and "1 and 2" in told and '"labels"' in told


def test_a_fractional_segmentation_is_told_whatever_its_largest_value(tmp_path: Path) -> None:
    _, mask = truth()
    soft = np.rint(100 * softmax(mask)) * (mask > 0)
    told = bad(only(layouts.find(with_mask(tmp_path, soft, kind="FRACTIONAL", most=100))))
    assert "between whole numbers" in told
    whole = tmp_path / "whole"
    same(layouts.read(only(layouts.find(with_mask(whole, (mask > 0) * 255, kind="FRACTIONAL")))), truth()[0], mask)


@pytest.mark.parametrize(
    ("values", "told"),
    [((1, 2), False), ((2,), False), ((255,), False), ((1, 255), True), ((1, 2, 3), True), ((1, 2, 4), True)],
)
def test_the_check_lists_the_values_and_tells_those_that_may_be_no_gland(
    tmp_path: Path, values: tuple[int, ...], told: bool
) -> None:
    image, mask = truth()
    drawn = np.zeros_like(mask)
    for k, value in enumerate(values):
        drawn[2 + k, 8:20, 8:20] = value
    drawn[5, 8:20, 8:20] = values[0]
    checkup = data_check.check(as_nifti_pairs(tmp_path, image, drawn), minimum_pixels=10)
    found = [finding.sentence for finding in checkup.findings if finding.kind is Kind.MASK_VALUES]
    assert bool(found) is told
    if told:
        assert all(f"{value} (" in found[0] for value in values) and '"labels"' in found[0]
    listing = [note for note in checkup.notes if "Beside 0" in note]
    assert bool(listing) is told
    assert words.to_json(checkup)["patients"][0]["values"][0][0] == values[0]
    stated = data_check.check(stating(tmp_path, f"labels = {list(values[:1])}\n"), minimum_pixels=10)
    assert not [finding for finding in stated.findings if finding.kind is Kind.MASK_VALUES]


def test_a_negative_value_is_told(tmp_path: Path) -> None:
    image, mask = truth()
    drawn = mask.astype(np.int16)
    drawn[4, 10:12, 6:8] = -1
    checkup = data_check.check(as_nifti_pairs(tmp_path, image, drawn), minimum_pixels=10)
    assert any("-1 (4 voxels)" in f.sentence for f in checkup.findings if f.kind is Kind.MASK_VALUES)
