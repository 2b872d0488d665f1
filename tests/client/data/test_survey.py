"""What a site is said to have before anything is prepared is what it turns out to have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.data.survey import survey
from client.preprocessing.cohort import gather
from client.preprocessing.pipeline import load, prepare
from client.site_config import load_site
from client.stages.describe import train_slices
from common.errors import RelayError
from tests.support.hospitals import patient, small_study, write_pair, write_site


@pytest.mark.parametrize("which", ["chosen", "all"])
def test_the_counts_are_those_of_the_prepared_patients(tmp_path: Path, which: str) -> None:
    study = small_study(sites=("A", "B"), split={"folds": 3}, training={"slices": which, "empty_share": 0.4})
    for number in range(8):
        image, mask = patient(number, slices=5 + number % 3)
        write_pair(tmp_path / "images", f"Case{number:02}", image, mask)
    image, mask = patient(99)
    write_pair(tmp_path / "images", "Empty", np.zeros_like(image), mask)
    small = np.zeros_like(mask)
    small[4, 20:24, 20:24] = 1  # sixteen pixels: no slice is selected
    write_pair(tmp_path / "images", "Small", image, small)
    site = load_site(write_site(tmp_path, "A"))
    calls: list[tuple[int, int]] = []

    found = survey(site, study, progress=lambda done, of: calls.append((done, of)))

    assert not (tmp_path / "private").exists(), "nothing is written"
    assert calls == [(number + 1, 10) for number in range(10)]
    prepared = prepare(site, study.preprocessing)
    cohort = gather(prepared.records, site, study.split)
    assert (found.patients, found.left_out) == (8, 2)
    assert found.test_patients == len(cohort.test())
    assert found.train_slices == train_slices(cohort, study)
    scored = [found.test_slices, *found.validation_slices]
    parts = [cohort.test(), *(cohort.validation(fold) for fold in range(3))]
    if which == "chosen":
        assert scored == [sum(record.selected for record in part) for part in parts]
    else:
        assert scored == [sum(record.slices for record in part) for part in parts]
    for fold in range(3):
        training = cohort.train(fold)
        masks = [load(record).native_mask for record in training]
        gland = sum(int(mask.any(axis=(1, 2)).sum()) for mask in masks)
        empty = sum(map(len, masks)) - gland
        assert empty and gland >= sum(record.selected for record in training)
        expected = sum(record.selected for record in training) if which == "chosen" else gland + round(0.4 * empty)
        assert found.train_slices[fold] == expected


def test_a_study_of_volumes_counts_a_box_of_each_patient(tmp_path: Path) -> None:
    study = small_study(
        sites=("A", "B"),
        model={"architecture": "VNet", "encoder": "", "dimensions": 3},
        split={"folds": 3},
        training={"slices": "all"},
    )
    for number in range(8):
        image, mask = patient(number, slices=5)
        write_pair(tmp_path / "images", f"Case{number:02}", image, mask)
    site = load_site(write_site(tmp_path, "A"))
    found = survey(site, study)
    cohort = gather(prepare(site, study.preprocessing).records, site, study.split)
    assert found.train_slices == found.train_patients == train_slices(cohort, study)
    assert (found.test_slices, found.validation_slices) == (found.test_patients, found.validation_patients)
    assert found.test_slices == len(cohort.test()) and sum(found.validation_slices) + found.test_slices == 8


def test_too_few_patients_are_told(tmp_path: Path) -> None:
    image, mask = patient(1)
    write_pair(tmp_path / "images", "Alone", image, mask)
    site = load_site(write_site(tmp_path, "A"))
    with pytest.raises(RelayError, match="Site A has 1 usable patients, but"):
        survey(site, small_study(sites=("A", "B")))
    write_pair(tmp_path / "images", "Alone", image, np.zeros_like(mask))
    with pytest.raises(RelayError, match="Site A has no usable patient"):
        survey(site, small_study(sites=("A", "B")))
