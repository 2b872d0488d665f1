"""Prostate158: a folder a patient, at any depth, and the outlines of reader 1."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from client.data import layouts
from tests.support.layout_files import (
    as_prostate158,
    one_sentence,
    only,
    problem,
    same,
    site,
    truth,
    write_volume,
)


@pytest.mark.parametrize(
    "place",
    ["train/020", "test/001", "prostate158_train/train/020", "test/prostate158_test/test/001", "020", "valid/030"],
)
def test_a_patients_folder_is_found_wherever_the_archives_put_it(tmp_path: Path, place: str) -> None:
    image, mask = truth()
    write_volume(tmp_path / "images" / place / "t2.nii.gz", image)
    write_volume(tmp_path / "images" / place / "t2_anatomy_reader1.nii.gz", mask)
    source = only(layouts.find(site(tmp_path, "prostate158")))
    assert source.patient == Path(place).name
    same(layouts.read(source), image, mask)


def test_other_sequences_and_the_tumour_are_left_alone(tmp_path: Path) -> None:
    image, mask = truth()
    config = as_prostate158(tmp_path, image, mask)
    for name in ("adc", "dwi", "adc_tumor_reader1", "adc_tumor_reader2", "t2_tumor_reader1", "empty", "predicted"):
        write_volume(tmp_path / "images" / "train" / "020" / f"{name}.nii.gz", np.ones_like(mask))
    for name in ("train.csv", "valid.csv"):
        (tmp_path / "images" / name).write_text("ID,t2\n20,train/020/t2.nii.gz\n", encoding="utf-8")
    same(layouts.read(only(layouts.find(config))), image, mask)


def test_reader_1_is_taken_of_two_and_it_is_said(tmp_path: Path) -> None:
    image, mask = truth()
    config = as_prostate158(tmp_path, image, mask)
    assert layouts.find(config).notes == ()
    write_volume(tmp_path / "images" / "train" / "020" / "t2_anatomy_reader2.nii.gz", np.ones_like(mask))
    found = layouts.find(config)
    same(layouts.read(only(found)), image, mask)
    (note,) = found.notes
    assert "outlined 1 of the patients" in note and "reader 1 are taken" in note
    one_sentence(note)


def test_a_patient_outlined_by_reader_2_alone_is_told(tmp_path: Path) -> None:
    image, mask = truth()
    config = as_prostate158(tmp_path, image, mask)
    folder = tmp_path / "images" / "train" / "020"
    (folder / "t2_anatomy_reader1.nii.gz").rename(folder / "t2_anatomy_reader2.nii.gz")
    assert "reader 1 is taken" in problem(layouts.find(config), "020")


def test_a_patient_who_lies_in_two_folders_is_told_with_both(tmp_path: Path) -> None:
    config = as_prostate158(tmp_path, *truth())
    shutil.copytree(tmp_path / "images" / "train", tmp_path / "images" / "old" / "train")
    told = problem(layouts.find(config), "020")
    assert str(Path("old", "train", "020")) in told and told.count("t2.nii.gz") == 2


def test_a_file_that_is_there_with_and_without_gz_is_told(tmp_path: Path) -> None:
    config = as_prostate158(tmp_path, *truth())
    write_volume(tmp_path / "images" / "train" / "020" / "T2.nii", truth()[0])
    assert "twice" in problem(layouts.find(config), "020")
