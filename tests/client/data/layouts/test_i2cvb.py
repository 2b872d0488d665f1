"""I2CVB: a folder a patient, DICOM masks in any order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.data import layouts
from tests.support.layout_files import (
    OBLIQUE,
    ORIGIN,
    as_i2cvb,
    bad,
    only,
    problem,
    same,
    site,
    truth,
    write_series,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(image_numbers=st.permutations(range(8)), mask_numbers=st.permutations(range(8)))
def test_slices_are_paired_by_position_whatever_their_files_are_called(
    tmp_path: Path, image_numbers: list[int], mask_numbers: list[int]
) -> None:
    image, mask = truth()
    patient = tmp_path / "images" / "Patient 1036"
    write_series(patient / "T2W", image, numbers=image_numbers, axes=OBLIQUE)
    write_series(patient / "GT" / "prostate", mask.astype(np.int16), numbers=mask_numbers, axes=OBLIQUE, uid="1.9")
    same(layouts.read(only(layouts.find(site(tmp_path, "i2cvb")))), image, mask)


@pytest.mark.parametrize("missing", [(3,), (0,), (7,), (0, 1, 3, 5, 6, 7), (0, 1, 2, 5, 6, 7)])
def test_a_missing_mask_slice_is_empty_and_moves_no_other(tmp_path: Path, missing: tuple[int, ...]) -> None:
    image, mask = truth()
    patient = tmp_path / "images" / "Patient_428260"
    write_series(patient / "T2W", image)
    write_series(patient / "GT" / "prostate", mask.astype(np.int16), numbers=range(8)[::-1], without=missing, uid="1.9")
    mask[list(missing)] = 0
    same(layouts.read(only(layouts.find(site(tmp_path, "i2cvb")))), image, mask)


def test_mask_slices_at_irregular_distances_are_told(tmp_path: Path) -> None:
    image, mask = truth()
    patient = tmp_path / "images" / "Patient 1"
    write_series(patient / "T2W", image)
    for number, height in enumerate([0.0, 3.0, 4.7, 8.2]):
        write_series(
            patient / "GT" / "prostate",
            mask[number + 2 : number + 3].astype(np.int16),
            origin=ORIGIN + [0, 0, height],
            numbers=[number],
        )
    assert "irregular" in bad(only(layouts.find(site(tmp_path, "i2cvb"))))


def test_the_cancer_beside_the_gland_and_the_sets_other_sequences_are_left_alone(tmp_path: Path) -> None:
    image, mask = truth()
    config = as_i2cvb(tmp_path, image, mask)
    patient = tmp_path / "images" / "Patient 1036"
    for number, name in enumerate(["GT/cg", "GT/pz", "DCE", "ADC", "MRSI"]):
        write_series(patient / name, image[::-1] + 3, uid=f"1.7.{number}")
    (tmp_path / "images" / "notes").mkdir()
    same(layouts.read(only(layouts.find(config))), image, mask)


@pytest.mark.parametrize("values", [(100,), (255,), (1, 2), (3, 40)])
def test_whatever_value_a_mask_holds_is_gland(tmp_path: Path, values: tuple[int, ...]) -> None:
    image, mask = truth()
    labels = np.where(mask > 0, np.resize(values, mask.shape), 0).astype(np.int16)
    patient = tmp_path / "images" / "Patient 1"
    write_series(patient / "T2W", image)
    write_series(patient / "GT" / "prostate", labels, uid="1.9")
    same(layouts.read(only(layouts.find(site(tmp_path, "i2cvb")))), image, mask)


@pytest.mark.parametrize("names", [("t2w", "gt", "Prostate"), ("T2W", "Gt", "PROSTATE")])
def test_folders_are_known_in_upper_and_lower_case(tmp_path: Path, names: tuple[str, str, str]) -> None:
    image, mask = truth()
    patient = tmp_path / "images" / "Patient 1"
    write_series(patient / names[0], image)
    write_series(patient / names[1] / names[2], mask.astype(np.int16), uid="1.9")
    same(layouts.read(only(layouts.find(site(tmp_path, "i2cvb")))), image, mask)
    write_series(patient / "t2W", image + 1, uid="1.10")
    assert "nothing but case" in problem(layouts.find(site(tmp_path, "i2cvb")), "Patient 1")


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    config = as_i2cvb(tmp_path, *truth())
    (tmp_path / "images" / "Patient 3" / "T2W").mkdir(parents=True)
    (tmp_path / "images" / "Patient 4").mkdir()
    found = layouts.find(config)
    assert "empty" in problem(found, "Patient 3") and "no image" in problem(found, "Patient 4")
