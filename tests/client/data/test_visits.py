"""The visits of one person are found by PatientID or by the site's pattern, and stand on one side of every split."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from client import data_check
from client.data import layouts
from client.data.survey import survey
from client.preprocessing.cohort import gather
from client.preprocessing.pipeline import fingerprint, prepare
from client.site_config import SiteConfig, load_site
from common.config.study import N4Config, PreprocessingConfig, SplitConfig
from common.errors import RelayError
from tests.client.data.layouts.test_geometry import stating
from tests.support.hospitals import small_study
from tests.support.layout_files import CONTENTS, site, truth, write_series, write_volume

PART = PreprocessingConfig(pixels=32, spacing_mm=1.0, minimum_mask_pixels=3, n4=N4Config(enabled=False))
VISITS = {"10000": 3, "10001": 2, "10002": 1, "10003": 1, "10004": 2}
"""PI-CAI's names are PATIENT_STUDY."""


def visits(folder: Path, names: list[str] | None = None) -> SiteConfig:
    names = names or [f"{person}_100{person[-1]}{v}" for person, number in VISITS.items() for v in range(number)]
    for k, name in enumerate(names):
        image, mask = truth()
        write_volume(folder / "images" / "imagesTr" / f"{name}_0000.nii.gz", image + k)
        write_volume(folder / "images" / "labelsTr" / f"{name}.nii.gz", mask)
    contents = CONTENTS | {"modality": {"0": "T2"}}
    (folder / "images" / "dataset.json").write_text(json.dumps(contents), encoding="utf-8")
    return site(folder, "decathlon")


def about_visits(notes: tuple[str, ...]) -> list[str]:
    return [note for note in notes if "begin alike" in note or "persons" in note or "person" in note]


def test_names_that_begin_alike_are_told_with_the_pattern_that_keeps_them_together(tmp_path: Path) -> None:
    (note,) = about_visits(layouts.find(visits(tmp_path)).notes)
    assert "7 names begin alike" in note and "10000_10000, 10000_10001 and 10000_10002" in note
    pattern = note[note.index("patient = ") :].partition(" in the site file")[0]
    found = layouts.find(stating(tmp_path, pattern + "\n"))
    assert {(source.patient, source.person) for source in found.sources if source.person} == {
        (f"{person}_100{person[-1]}{v}", f"{person}_100{person[-1]}0")
        for person, number in VISITS.items()
        for v in range(number)
        if number > 1
    }
    assert any("9 patients are 5 persons" in note for note in found.notes)
    assert any("9 patients are 5 persons" in note for note in data_check.check(load_site(tmp_path / "site.toml")).notes)


@pytest.mark.parametrize(
    "names",
    [
        [f"Case{k:02}" for k in range(8)],
        [f"prostate_{k:02}" for k in range(8)],
        [f"Prostate3T-01-{k:04}" for k in range(8)],
        [f"ProstateDx-{part}-{k:04}" for part in ("01", "02") for k in range(8)],
        [f"{k:05}_1" for k in range(8)],
    ],
    ids=["plain", "one prefix", "one prefix of three parts", "two hospitals", "one visit each"],
)
def test_names_of_different_persons_are_not_told(tmp_path: Path, names: list[str]) -> None:
    assert about_visits(layouts.find(visits(tmp_path, names)).notes) == []


def test_no_split_of_a_prepared_site_parts_a_person_and_the_pattern_changes_what_is_kept(tmp_path: Path) -> None:
    plain = visits(tmp_path)
    before = prepare(plain, PART).records
    config = stating(tmp_path, 'patient = "^([0-9]+)_"\n')
    for records in (prepare(config, PART).records, prepare(config, PART).records):  # found anew, and from the index
        assert [record.digest for record in records] == [record.digest for record in before]
        assert fingerprint(records, b"key") != fingerprint(before, b"key")
        parted = 0
        for seed in range(30):
            part = SplitConfig(seed=seed, folds=3)
            for cohort, whole in ((gather(records, config, part), True), (gather(before, plain, part), False)):
                sides = [cohort.split.test, *cohort.split.validation]
                owners = [{name.partition("_")[0] for name in side} for side in sides]
                apart = sum(map(len, owners)) > len(VISITS)
                assert not (whole and apart)
                parted += apart
        assert parted, "without the pattern, persons are parted: else this test could not fail"


def series_of(folder: Path, patients: list[str]) -> SiteConfig:
    for k, patient in enumerate(patients):
        image, mask = truth()
        place = folder / "images" / f"Patient {k}"
        write_series(place / "T2W", image + k, patient=patient, uid=f"1.2.{k}")
        write_series(place / "GT" / "prostate", mask.astype(np.int16), patient=patient, uid=f"1.3.{k}")
    return site(folder, "i2cvb")


@pytest.mark.parametrize(
    ("patients", "persons"),
    [
        (["a", "b", "a"], ["Patient 0", "", "Patient 0"]),
        (["a", "b", "c"], ["", "", ""]),
        (["", "", ""], ["", "", ""]),
        (["x", "x", "x"], ["", "", ""]),
    ],
)
def test_folders_of_one_patient_id_are_one_person_unless_all_are(
    tmp_path: Path, patients: list[str], persons: list[str]
) -> None:
    found = layouts.find(series_of(tmp_path, patients))
    assert [source.person for source in found.sources] == persons
    assert any("same PatientID" in note for note in found.notes) is (patients == ["x"] * 3)


@pytest.mark.parametrize(
    ("pattern", "told"),
    [("^([a-z]+)_", "matches"), ("^[0-9]+_", "brackets"), ("(", "regular expression"), ("(1)(0)", "brackets")],
)
def test_a_pattern_that_finds_nobody_is_told(tmp_path: Path, pattern: str, told: str) -> None:
    visits(tmp_path)
    with pytest.raises(RelayError, match=told):
        layouts.find(stating(tmp_path, f"patient = '{pattern}'\n"))


def test_a_survey_counts_the_parts_that_training_will_have(tmp_path: Path) -> None:
    visits(tmp_path)
    config = stating(tmp_path, 'patient = "^([0-9]+)_"\n')
    study = small_study(sites=("A", "B"), split={"folds": 3}, preprocessing={"minimum_mask_pixels": 3})
    cohort = gather(prepare(config, PART).records, config, study.split)
    counted = survey(config, study)
    assert counted.test_patients == len(cohort.test())
    assert counted.validation_patients == tuple(len(names) for names in cohort.split.validation)
